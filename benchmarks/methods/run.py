"""Every method of adapters in one table: accuracy, size, INT8, time and memory of a step, beside PEFT and LyCORIS.

Accuracy is measured by benchmarks/accuracy/run.py, suite `methods`; this takes its results, and measures the rest:

    python benchmarks/methods/run.py --model yolo11n.pt --steps wildlife/data.yaml
    python benchmarks/methods/run.py --model yolo11n.pt --int8 wildlife=wildlife/data.yaml --adapters kept
    python benchmarks/methods/run.py --table

Each result is written as soon as it exists; what is in the files is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Set
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy.run import SEEDS, Run
from jobs import Job, ResultsFile, run_jobs, visible
from provenance import provenance
from table import counted_runs, draw, step_of, table, trained_as
from ways import COMPARED, OWN

HERE = Path(__file__).parent
STEP = HERE.parent / "training" / "step.py"
EARLIER = HERE.parent / "accuracy" / "results.json"
ACCURACY, STEPS, INT8 = "accuracy.json", "steps.json", "int8.json"
TIMED = ("full", *(way for way in COMPARED if step_of(way) == way))
AHEAD = 3
"""Processes on a GPU: one takes its steps while the others import and load."""


def measure_steps(options: argparse.Namespace) -> None:
    """Time the step of every method that is not in the file nor refused, one at a time on each GPU."""
    results = ResultsFile(options.folder / STEPS, [])
    refused = {run["method"] for run in accuracy_runs(options.folder) if "refused" in run}
    with tempfile.TemporaryDirectory() as turns:
        words = ["--model", options.model, "--data", str(options.steps), "--imgsz", options.imgsz, "--batch"]
        words += [options.batch, "--steps", "40", "--device", visible(options.devices[0]), "--turns", turns]

        def wanted(ended: Set[str]) -> list[Job]:
            done = {found["method"] for found in results.content} | refused
            left = [way for way in TIMED if way not in done]
            return [Job(way, [sys.executable, str(STEP), "--method", way, *words], results.add) for way in left]

        run_jobs(wanted, devices=options.devices, at_once=options.jobs, minutes=options.minutes)


def measure_int8(options: argparse.Namespace) -> None:
    """Export, quantize and judge the seed-0 adapter of each of our methods, at the learning rate that counts."""
    import visionlora as vl

    results, runs = ResultsFile(options.folder / INT8, []), accuracy_runs(options.folder)
    for name, data in (pair.split("=", 1) for pair in options.int8):
        done = {found["method"] for found in results.content if found["data"] == name}
        for way in (trained_as(name, row) for row in COMPARED if row in OWN):
            kept = [run for run in counted_runs(runs, name, way) if run["seed"] == SEEDS[0]]
            adapter = options.adapters / f"{file_of(kept[0])}.safetensors" if kept else None
            if way in done or adapter is None or not adapter.exists():
                continue
            with tempfile.TemporaryDirectory() as folder:
                model, small = Path(folder) / "model.onnx", Path(folder) / "model.int8.onnx"
                vl.export(options.model, model, adapter=adapter)
                made = vl.quantize(model, data, small)
                report = vl.evaluate([f"float={model}", f"int8={small}"], data, cache=False)
                scores = {row.label: round(row.scores.map50_95, 4) for row in report.rows}
                interval = report.rows[1].differences[0].map50_95.interval
                found = {"data": name, "method": way, "lr0": kept[0]["lr0"], **scores, "int8_convs": made.int8_convs}
                found |= {"convs": made.convs, "bytes": made.bytes, "float_bytes": made.float_bytes}
                results.add({**found, "interval": [round(interval.low, 4), round(interval.high, 4)], **provenance()})
            print(results.content[-1], flush=True)


def file_of(found: dict) -> str:
    """Return the name under which accuracy/run.py keeps the adapter of a run."""
    return Run(*(found[field] for field in ("data", "method", "lr0", "seed", "rank"))).file


def accuracy_runs(folder: Path) -> list[dict]:
    """Return the runs of the methods, and those of full fine-tuning and PEFT's LoRA from the accuracy benchmark."""
    runs = read(folder / ACCURACY)
    own = {(run["data"], run["method"]) for run in runs}
    return runs + [run for run in read(EARLIER) if (run["data"], run["method"]) not in own]


def read(path: Path) -> list[dict]:
    """Return the results in a file; none where it is not there yet."""
    return json.loads(path.read_text()) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the checkpoint")
    parser.add_argument("--steps", type=Path, metavar="DATA", help="time the steps, on the pictures of this data.yaml")
    parser.add_argument("--int8", nargs="+", metavar="NAME=DATA", help="quantize and judge the adapters of these sets")
    parser.add_argument("--adapters", type=Path, help="folder that accuracy/run.py kept adapter files in")
    parser.add_argument("--table", action="store_true", help="print the table of all results, and draw the picture")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the results lie and go")
    parser.add_argument("--imgsz", default="640", help="of the steps")
    parser.add_argument("--batch", default="16", help="of the steps")
    parser.add_argument("--devices", nargs="+", default=["0"], help="numbers of GPUs, or cpu")
    parser.add_argument("--jobs", type=int, default=AHEAD, help="processes at once on each")
    parser.add_argument("--minutes", type=float, help="begin no step after so many")
    options = parser.parse_args()
    if options.steps is not None:
        measure_steps(options)
    if options.int8:
        measure_int8(options)
    if options.table:
        runs = accuracy_runs(options.folder)
        print(table(runs, read(options.folder / STEPS), read(options.folder / INT8)))
        draw(runs, options.folder / "methods.png")


if __name__ == "__main__":
    main()
