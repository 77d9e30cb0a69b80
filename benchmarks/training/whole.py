"""Wall time of whole training runs, adapter and full fine-tuning in turns: loading, training, validation each epoch.

    python benchmarks/training/whole.py --model yolo11n.pt --data datasets/neu-det/data.yaml \
        --out benchmarks/training/whole.json

Every run is a process of its own, each side at its defaults; the score is visionlora's ruler on the last epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from run import result_of

ONE = Path(__file__).parents[1] / "accuracy" / "one.py"
METHODS = ("lora", "full")


def measure(method: str, options: argparse.Namespace) -> dict:
    """Train once in a process of its own; return its result."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ONE), "--method", method, "--out", folder, "--set", '{"val": true}']
        for name in ("model", "data", "epochs", "imgsz", "batch", "device", "workers"):
            command += [f"--{name}", str(getattr(options, name))]
        return result_of(command)


def summary(results: list[dict]) -> str:
    """Return the median time of each side as a Markdown table."""
    full = statistics.median(run["seconds"] for run in results if run["method"] == "full")
    lines = ["| run | rounds | seconds | against full | mAP50-95 |", "| --- | ---: | ---: | ---: | ---: |"]
    for method in METHODS:
        runs = [run for run in results if run["method"] == method]
        seconds = statistics.median(run["seconds"] for run in runs)
        score = statistics.mean(run["map50_95"] for run in runs)
        lines.append(f"| {method} | {len(runs)} | {seconds:.0f} | {seconds / full:.2f} | {score:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=8, help="of the loader: Ultralytics' default")
    parser.add_argument("--device", default="0")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for _ in range(options.rounds):
        for method in METHODS:
            results.append(measure(method, options))
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print({name: results[-1][name] for name in ("method", "seconds", "map50_95")}, flush=True)
    print(summary(results))


if __name__ == "__main__":
    main()
