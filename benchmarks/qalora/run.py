"""QA-LoRA against calibration alone: every data set and seed, a process each, several at once on one GPU.

    python benchmarks/qalora/run.py --model yolo11n.pt --steel datasets/neu-det/data.yaml \
        --wildlife datasets/african-wildlife/data.yaml --out benchmarks/qalora/results.json

First the training steps are timed, one after another with the machine for themselves; then one.py runs for each data
set and seed. Each result is written as soon as it exists; what is in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ONE = Path(__file__).with_name("one.py")
STEP = Path(__file__).parents[1] / "training" / "step.py"
SETS = ("steel", "wildlife")
EPOCHS = {  # float, with ReLU, int8
    "steel": (16, 12, 5),
    "wildlife": (40, 30, 12),
}
STEPS = {  # label: arguments of step.py
    "lora": ("lora",),
    "qalora": ("qalora", "--distill", "0"),
    "qalora with teacher": ("qalora",),
    "full": ("full",),
    "full-qat": ("full-qat",),
}


class Results:
    """The results file; several threads add to it."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.content = json.loads(path.read_text()) if path.exists() else {"runs": [], "steps": []}

    def add(self, kind: str, result: dict) -> None:
        """Write one result at once."""
        with self._lock:
            self.content[kind].append(result)
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def time_steps(options: argparse.Namespace, results: Results) -> None:
    """Time the training step of each method at both sizes."""
    done = {(step["label"], step["imgsz"]) for step in results.content["steps"]}
    for imgsz in options.step_sizes:
        for label, arguments in STEPS.items():
            if (label, imgsz) in done or (label == "full-qat" and not options.rival):
                continue
            command = [sys.executable, str(STEP), "--method", *arguments, "--label", label, "--model", options.model]
            command += ["--data", str(options.wildlife), "--imgsz", str(imgsz), "--device", options.device]
            command += ["--steps", str(options.steps), "--batch", str(options.batch)]
            command += ["--adapter", str(options.adapter)] if arguments[0] == "qalora" else []
            stream(command, lambda result: results.add("steps", result))


def train_all(options: argparse.Namespace, results: Results) -> None:
    """Run one.py for every data set and seed, as many at once as asked for."""
    until = time.monotonic() + 60 * options.minutes
    scale = options.scale
    jobs = [(seed, name) for seed in options.seeds for name in options.sets]  # every set's first seed first

    def work(job: tuple[int, str]) -> None:
        seed, name = job
        done = {run["variant"] for run in results.content["runs"] if (run["data"], run["seed"]) == (name, seed)}
        wanted = [variant for variant in options.variants if variant not in done]
        left = (until - time.monotonic()) / 60
        if not wanted or left <= 0:
            return
        factors = (scale, scale, scale * options.qat_scale)
        epochs, relu, int8 = (max(1, round(f * number)) for f, number in zip(factors, EPOCHS[name], strict=True))
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(ONE), "--model", options.model, "--data", str(getattr(options, name))]
            command += ["--out", folder, "--seed", str(seed), "--device", options.device, "--variants", *wanted]
            command += ["--epochs", str(epochs), "--relu-epochs", str(relu), "--qat-epochs", str(int8)]
            command += ["--rank", str(options.rank), "--minutes", f"{left - options.margin:.2f}"]
            command += ["--batch", str(options.batch), "--imgsz", str(options.imgsz)]
            command += ["--workers", str(options.workers), "--qat-lr0", str(options.qat_lr0)]
            stream(command, lambda result: results.add("runs", {"data": name, **result}))

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, jobs))


def stream(command: list[str], keep) -> None:
    """Run a command; hand over each result as it is printed, and show the end of the output where there was none."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    tail: list[str] = []
    for line in process.stdout or ():
        if line.startswith("RESULT "):
            found = json.loads(line.removeprefix("RESULT "))
            keep(found)
            names = ("label", "imgsz", "ms", "memory_gib", "graph", "variant", "seed", "float", "own_float", "int8")
            print({name: found[name] for name in names if name in found}, flush=True)
        elif "CUDA graph" in line or "triton" in line or "no time left" in line:
            print(line.strip(), flush=True)
        tail = [*tail[-30:], line]
    if process.wait():
        print(f"broke off: {' '.join(command[1:])}\n{''.join(tail)}", flush=True)


def table(content: dict) -> str:
    """Return the means over seeds as Markdown."""
    lines = [
        "| data set | way | seeds | float, SiLU | INT8 | INT8 minus float, points | each seed | its float form |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    runs = content["runs"]
    for data, variant in dict.fromkeys((run["data"], run["variant"]) for run in runs):
        kept = sorted((r for r in runs if (r["data"], r["variant"]) == (data, variant)), key=lambda r: r["seed"])
        mean = {name: statistics.mean(run[name] for run in kept) for name in ("float", "own_float", "int8")}
        drops = [
            f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            for value, low, high in (run["int8_minus_float"] for run in kept)
        ]
        cells = [data, variant, str(len(kept)), f"{mean['float']:.3f}", f"{mean['int8']:.3f}"]
        cells += [f"{100 * (mean['int8'] - mean['float']):+.1f}", ", ".join(drops), f"{mean['own_float']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| step | image size | ms | against LoRA | memory, GiB |", "| --- | ---: | ---: | ---: | ---: |"]
    for step in content["steps"]:
        lora = next((s["ms"] for s in content["steps"] if (s["label"], s["imgsz"]) == ("lora", step["imgsz"])), None)
        ratio = f"{step['ms'] / lora:.2f}" if lora else "-"
        lines.append(f"| {step['label']} | {step['imgsz']} | {step['ms']:.1f} | {ratio} | {step['memory_gib']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steel", type=Path, required=True, help="data.yaml of NEU-DET")
    parser.add_argument("--wildlife", type=Path, required=True, help="data.yaml of African wildlife")
    parser.add_argument("--adapter", type=Path, help="a float adapter of wildlife, for the timing of steps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=("steps", "train", "table"), default=("steps", "train", "table"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument(
        "--variants", nargs="+", default=("ptq", "qalora", "relu", "relu-early", "qalora-no-teacher", "qalora-fixed")
    )
    parser.add_argument("--step-sizes", nargs="+", type=int, default=(640, 320))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rival", action="store_true", help="time Ultralytics' quantize=8 too; needs nvidia-modelopt")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--qat-lr0", type=float, default=0.0002)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all epochs")
    parser.add_argument("--qat-scale", type=float, default=1.0, help="factor of the epochs under fake quantization")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after so many")
    parser.add_argument("--margin", type=float, default=1.0, help="minutes that a variant takes, kept free at the end")
    parser.add_argument("--device", default="0")
    parser.add_argument("--jobs", type=int, default=6, help="processes at once")
    parser.add_argument("--workers", type=int, default=2, help="of a process")
    options = parser.parse_args()
    results = Results(options.out)
    if "steps" in options.parts:
        time_steps(options, results)
    if "train" in options.parts:
        train_all(options, results)
    if "table" in options.parts:
        print(table(results.content))


if __name__ == "__main__":
    main()
