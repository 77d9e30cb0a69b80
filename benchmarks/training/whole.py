"""Wall time of whole training runs, adapter and full fine-tuning in turns: loading, training, validation each epoch.

    python benchmarks/training/whole.py --model yolo11n.pt --data datasets/neu-det/data.yaml \
        --out benchmarks/training/whole.json

Every run is a process of its own, every round with another seed, each side at its defaults, with the pictures cached in
memory on both; the score is that of the epoch that was best on the validation pictures. `--sides lora:0,1 lora`
compares two GPUs with one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import result_of

ONE = Path(__file__).parents[1] / "accuracy" / "one.py"


def measure(side: str, seed: int, options: argparse.Namespace) -> dict:
    """Train once in a process of its own; return its result."""
    method, _, devices = side.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ONE), "--method", method, "--out", folder, "--set", '{"val": true}']
        command += ["--device", devices or options.device, "--seed", str(seed)]
        for name in ("model", "data", "epochs", "imgsz", "batch", "workers"):
            command += [f"--{name}", str(getattr(options, name))]
        return {"side": side, **result_of(command)}


def summary(results: list[dict]) -> str:
    """Return the median time of each side, against that of the last one, as a Markdown table.

    Runs whose time cannot be compared, because others ran beside them, have none. Scores are shown where all runs are
    of one method: what each method reaches at its best is for benchmarks/accuracy.
    """
    sides = list(dict.fromkeys(run["side"] for run in results))
    scored = len({run["method"] for run in results}) == 1
    lines = [
        f"| run | seconds | against {sides[-1]} |" + (" mAP50-95 | each seed |" if scored else ""),
        "| --- | ---: | ---: |" + (" ---: | --- |" if scored else ""),
    ]
    times = {
        side: [run["seconds"] for run in results if run["side"] == side and run["seconds"] is not None]
        for side in sides
    }
    medians = {side: statistics.median(seconds) for side, seconds in times.items()}
    for side in sides:
        scores = [run["map50_95"] for run in results if run["side"] == side]
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 2 else ""
        cells = [side, ", ".join(f"{seconds:.0f}" for seconds in times[side])]
        cells += [f"{medians[side] / medians[sides[-1]]:.2f}"]
        if scored:
            cells += [f"{statistics.mean(scores):.3f}{spread}", ", ".join(f"{score:.3f}" for score in scores)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sides", nargs="+", default=["lora", "full"], help="method, or method:devices")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=8, help="of the loader: Ultralytics' default")
    parser.add_argument("--device", default="0")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.first, options.first + options.rounds):
        for side in options.sides:
            results.append(measure(side, seed, options))
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print({name: results[-1][name] for name in ("side", "seed", "seconds", "map50_95")}, flush=True)
    print(summary(results))


if __name__ == "__main__":
    main()
