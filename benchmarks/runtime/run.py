"""Detector and Ultralytics' predict on the same ONNX file and pictures, each in a process of its own, in turns.

    python benchmarks/runtime/run.py --model yolo11n.onnx --model yolo11n.int8.onnx --source coco/images/val \
        --out benchmarks/runtime/results.json

Each result is written as soon as it exists, beside what the file holds already. Without `--model` it prints the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import result_of
from way import WAYS

from visionlora.machine import installed_versions, this_machine

WAY = Path(__file__).with_name("way.py")


MAX_OTHERS = 0.15
"""Cores that other processes may take meanwhile on average; a round with more does not count."""


def measure(way: str, model: str, source: str) -> dict:
    """Measure one way in a process of its own; return its result."""
    return result_of([sys.executable, str(WAY), "--way", way, "--model", model, "--source", source])


def summary(results: list[dict]) -> str:
    """Return rates, their ratios to Ultralytics, and latencies as a Markdown table: medians over rounds."""
    lines = [
        "| model | px | way | rounds | images/s | against Ultralytics | ms p50 | ms p99 | objects |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in dict.fromkeys(result["model"] for result in results):
        runs = [result for result in results if result["model"] == model]
        rates = [run["images_per_second"] for run in runs if run["way"] == "ultralytics"]
        theirs = statistics.median(rates) if rates else None
        for way in WAYS:
            rounds = [run for run in runs if run["way"] == way]
            if not rounds or theirs is None:
                continue
            rate = statistics.median(run["images_per_second"] for run in rounds)
            p50, p99 = (statistics.median(np.percentile(run["milliseconds"], q) for run in rounds) for q in (50, 99))
            cells = [model, str(rounds[0]["image_size"]), way, str(len(rounds)), f"{rate:.1f}", f"{rate / theirs:.2f}"]
            cells += [f"{p50:.1f}", f"{p99:.1f}", str(rounds[0]["objects"])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", default=[], help="ONNX file; repeat for several")
    parser.add_argument("--source", help="folder of pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    held = json.loads(options.out.read_text()) if options.out.exists() else {"results": []}
    held |= {"machine": dataclasses.asdict(this_machine()), "versions": installed_versions()}
    for _ in range(options.rounds if options.model else 0):
        for model in options.model:
            for way in options.ways:
                result = measure(way, model, options.source)
                print(way, model, *(round(result[key], 2) for key in ("images_per_second", "other_cores")), flush=True)
                if result["other_cores"] <= MAX_OTHERS:
                    held["results"].append(result)
                    options.out.write_text(json.dumps(held) + "\n")
    print(summary(held["results"]))


if __name__ == "__main__":
    main()
