"""LoRA against Ultralytics' full fine-tuning: every variant with every seed, a process each, on one machine.

    python benchmarks/accuracy/run.py --model yolo11n.pt --data datasets/neu-det/data.yaml \
        --out benchmarks/accuracy/results.json

Needs a GPU to be bearable. Each result is written as soon as it exists; runs that are in the file already are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ONE = Path(__file__).with_name("one.py")
VARIANTS = {
    "full": ["--method", "full"],
    "lora-r8": ["--method", "lora", "--rank", "8", "--lr0", "0.002"],
    "lora-r16": ["--method", "lora", "--rank", "16", "--lr0", "0.002"],
    "lora-r16-lr1e-3": ["--method", "lora", "--rank", "16", "--lr0", "0.001"],
}


def train_one(variant: str, seed: int, options: argparse.Namespace) -> dict:
    """Run one variant with one seed in a process of its own; return its result.

    Raises:
        RuntimeError: the process printed no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ONE), *VARIANTS[variant], "--seed", str(seed), "--out", folder]
        for name in ("model", "data", "epochs", "imgsz", "batch", "device"):
            command += [f"--{name}", str(getattr(options, name))]
        output = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in output.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{variant}, seed {seed}: {output.stderr[-500:]}")
    return {"variant": variant, **json.loads(lines[-1].removeprefix("RESULT "))}


def summary(results: list[dict]) -> str:
    """Return mean and spread of each variant as a Markdown table."""
    lines = ["| variant | seeds | mAP50-95 | each seed | mAP50 | MB |", "| --- | ---: | ---: | --- | ---: | ---: |"]
    for variant in dict.fromkeys(result["variant"] for result in results):
        runs = sorted((run for run in results if run["variant"] == variant), key=lambda run: run["seed"])
        scores = [run["map50_95"] for run in runs]
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        lines.append(
            f"| {variant} | {len(runs)} | {statistics.mean(scores):.3f}{spread} "
            f"| {', '.join(f'{score:.3f}' for score in scores)} "
            f"| {statistics.mean(run['map50'] for run in runs):.3f} | {runs[0]['bytes'] / 1e6:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="0")
    parser.add_argument("--jobs", type=int, default=4, help="processes at once")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(result["variant"], result["seed"]) for result in results}
    wanted = [(variant, int(seed)) for variant in options.variants.split(",") for seed in options.seeds.split(",")]
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda key: train_one(*key, options), [key for key in wanted if key not in done]):
            results.append(result)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(result["variant"], result["seed"], result["map50_95"], flush=True)
    print(summary(results))


if __name__ == "__main__":
    main()
