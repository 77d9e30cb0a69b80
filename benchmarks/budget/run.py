"""Hold int8 files to a budget on real data, and write what it took: `python benchmarks/budget/run.py --help`.

For each float model: quantize within the budget, then time the float file, the file with all layers in int8 and the one
within the budget, in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import UNKNOWN, commit

import visionlora as vl
from visionlora.data import load_dataset
from visionlora.errors import QuantizationError
from visionlora.files import atomic_output
from visionlora.machine import installed_versions, this_machine
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import time_networks

MAX_DROP, MAX_CLASS_DROP = 0.003, 0.02


def main() -> None:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--case", action="append", required=True, help="label=model.onnx=data.yaml; repeat")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--time", action="store_true", help="only time the files of an earlier run, and add that")
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "visionlora-budget")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {"cases": {}}
    for case in options.case:
        label, model, data = case.split("=")
        files = {name: options.files / f"{label}.{name}.onnx" for name in ("int8", "budget")}
        if options.time:
            results["cases"][label]["milliseconds"] = measure_time({"float": Path(model), **files}, Path(data))
        else:
            vl.quantize(model, data, files["int8"], overwrite=True)
            results["cases"][label] = quantize_within_budget(Path(model), Path(data), files["budget"])
    results["machine"] = vars(this_machine())
    with atomic_output(options.out) as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_output(options.out.with_name("README.md")) as partial:
        partial.write_text(page(results, options.out.name))


def quantize_within_budget(model: Path, data: Path, out: Path) -> dict[str, Any]:
    """Return the report of a file within the budget, or of the best one."""
    try:
        vl.quantize(
            model, data, out, max_drop=MAX_DROP, max_class_drop=MAX_CLASS_DROP, thresholds="recall", overwrite=True
        )
        report = out.with_suffix(".json")
    except QuantizationError as error:
        print(error)
        report = out.with_suffix(".best.json")
    written = json.loads(report.read_text())
    written["data"] = {name: written["data"][name] for name in ("content_hash", "split", "images")}
    sizes = {"float": model.stat().st_size, "budget": report.with_suffix(".onnx").stat().st_size}
    return {"commit": commit(), "versions": installed_versions(), "bytes": sizes, **written}


def measure_time(files: dict[str, Path], data: Path) -> dict[str, dict[str, float]]:
    """Return median milliseconds of the network alone, by threads and file, the files in turns."""
    images = load_dataset(data, splits=("val",)).split("val")
    result = {}
    for threads in (1, 2):
        turns = time_networks([OnnxNetwork(path, threads=threads) for path in files.values()], images)
        result[str(threads)] = {name: one.median for name, one in zip(files, turns, strict=True)}
    return result


def page(results: dict[str, Any], name: str) -> str:
    """Return the Markdown page of the results."""
    head = ("model", "all in INT8", "within the budget", "float groups", "multiply-adds", "size", "ms, 1 / 2 threads",
            "judged", "seconds", "missed objects")  # fmt: skip
    rows = [head, ("---",) * len(head), *(row(label, case) for label, case in results["cases"].items())]
    table = "\n".join(f"| {' | '.join(one)} |" for one in rows)
    return f"""# INT8 within a budget: what it takes

A loss of at most {MAX_DROP} of mAP50-95 and {MAX_CLASS_DROP} of AP50-95 of any class on the val split
([how](../../docs/budget.md)). Written by `python benchmarks/budget/run.py` from [{name}]({name}); the files were timed
by `--time` on {results["machine"]["cpu"]}, the search while other work ran.

{provenance_list(results)}

{table}

All in INT8, within the budget: difference of mAP50-95 to the float file, and of the worst class (95 % interval by a
paired bootstrap over the images). Multiply-adds: share that is float. Size: of the float file. ms: the network alone at
batch 1, medians in turns: float, all in INT8, within the budget. Judged: forms judged in full. Seconds: judging, and
searching where it was needed. Missed objects at a score of 0.25: float; within the budget at 0.25; within the budget at
thresholds that keep recall, fitted on other images; false alarms in brackets.
"""


def provenance_list(results: dict[str, Any]) -> str:
    """Return what libraries and commit of ours wrote the files, an item for the cases that share them."""
    cases: dict[str, list[str]] = {}
    for label, case in results["cases"].items():
        versions = ", ".join(f"{name} {case['versions'][name]}" for name in ("onnxruntime", "pycocotools"))
        written = "" if case["commit"] == UNKNOWN else f"written by commit `{case['commit']}` "
        cases.setdefault(f"{written}with {versions}", []).append(f"`{label}`")
    return "\n".join(f"- {', '.join(labels)}: {text}." for text, labels in cases.items())


def row(label: str, case: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table."""
    first, worst = case["trials"][0], min(case["difference"]["per_class"], key=lambda one: one["change"]["difference"])
    groups = [group for group in case["groups"] if group["float"]]
    times = case.get("milliseconds", {})
    refit = case["thresholds"]
    counts = [
        f"{refit[name]['misses']} ({refit[name]['false_alarms']})" for name in ("reference", "unfitted", "fitted")
    ]
    return (
        label,
        f"{-first['drop']:+.4f}, {first['worst_class']} {-first['worst_drop']:+.4f}",
        f"{change(case['difference']['map50_95'])}, {worst['name']} {change(worst['change'])}",
        ", ".join(group["name"] for group in groups) or "none",
        f"{sum(group['multiply_adds_share'] for group in groups):.1%}",
        f"{case['bytes']['budget'] / case['bytes']['float']:.2f}",
        " / ".join(", ".join(f"{ms:.1f}" for ms in files.values()) for files in times.values()) or "-",
        str(len(case["trials"])),
        f"{case['seconds']:.0f}",
        "; ".join(counts),
    )


def change(fields: dict[str, Any]) -> str:
    """Return a difference with its interval."""
    return f"{fields['difference']:+.4f} ({fields['interval']['low']:+.4f} to {fields['interval']['high']:+.4f})"


if __name__ == "__main__":
    main()
