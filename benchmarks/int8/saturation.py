"""What int8 and int7 weights cost on an x86 CPU without integer dot products (VNNI), where sums of int8 ones saturate.

    python benchmarks/int8/saturation.py --model yolo11n.pt --data datasets/african-wildlife/data.yaml \
        --adapters runs/a/adapter.safetensors runs/b/adapter.safetensors --out benchmarks/int8/saturation.json

Each adapter is exported, quantized both ways at the defaults of `quantize`, and judged by `evaluate` on the val split.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import ResultsFile
from provenance import provenance

import visionlora as vl
from visionlora.machine import this_machine
from visionlora.quantization import sums_saturate

WEIGHTS = ("int8", "int7")


def measure(model: str, adapter: Path, data: str) -> dict:
    """Return the scores of an adapter's float file and of its quantized ones, and what these lose."""
    with tempfile.TemporaryDirectory() as folder:
        source = vl.export(model, Path(folder) / "model.onnx", adapter=adapter).path
        made = {each: vl.quantize(source, data, Path(folder) / f"{each}.onnx", weights=each) for each in WEIGHTS}
        report = vl.evaluate(
            [f"float={source}", *(f"{name}={file.path}" for name, file in made.items())], data, cache=False
        )
    found = {"adapter": adapter.stem, "float": round(report.rows[0].scores.map50_95, 4)}
    for row in report.rows[1:]:
        change = row.differences[0].map50_95
        found[row.label] = {
            "map50_95": round(row.scores.map50_95, 4),
            "change": round(change.difference, 4),
            "interval": [round(change.interval.low, 4), round(change.interval.high, 4)],
            "bytes": made[row.label].bytes,
        }
    return {**found, "cpu": this_machine().cpu, "sums_saturate": sums_saturate(), **provenance()}


def table(results: list[dict]) -> str:
    """Return the results as Markdown: points of mAP50-95 against the float file, with their 95 % intervals."""
    lines = ["| adapter | float | int8 | int7 |", "| --- | ---: | ---: | ---: |"]
    for found in results:
        cells = []
        for each in WEIGHTS:
            low, high = found[each]["interval"]
            cells.append(f"{100 * found[each]['change']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        lines.append(f"| {found['adapter']} | {found['float']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="checkpoint of the base")
    parser.add_argument("--data", required=True, help="data.yaml that the adapters were trained on")
    parser.add_argument("--adapters", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = ResultsFile(options.out, [])
    for adapter in options.adapters:
        results.add(measure(options.model, adapter, options.data))
        print(json.dumps(results.content[-1]), flush=True)
    print(table(results.content))


if __name__ == "__main__":
    main()
