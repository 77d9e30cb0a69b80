"""Time and memory of the training step, every variant in a process of its own, in turns, on one machine.

    python benchmarks/training/run.py --model yolo11n.pt --data datasets/neu-det/data.yaml \
        --out benchmarks/training/results.json

Each result is written as soon as it exists. On a machine without a GPU: `--device cpu --imgsz 320 --batch 4`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import result_of

STEP = Path(__file__).with_name("step.py")
VARIANTS = {
    "full": ["--method", "full"],
    "lora": ["--method", "lora"],
    "lora, far": ["--method", "lora", "--recipe", "far"],
    "lora, lean": ["--method", "lora", "--lean"],
    "lora, int8 base": ["--method", "lora", "--base-precision", "int8"],
    "lora, nf4 base": ["--method", "lora", "--base-precision", "nf4"],
    "lora, nf4 base, lean": ["--method", "lora", "--base-precision", "nf4", "--lean"],
    "lora, no graph": ["--method", "lora", "--eager"],
    "lora, parts": ["--method", "lora", "--parts"],
    "freeze=10": ["--method", "freeze10"],
    "head only": ["--method", "head"],
    "PEFT": ["--method", "peft"],
}
PARTS = "lora;lora, parts"
"""The variants whose table is that of the parts of a step."""


def measure(variant: str, model: str, options: argparse.Namespace) -> dict:
    """Measure one variant in a process of its own; return its result."""
    command = [sys.executable, str(STEP), *VARIANTS[variant], "--label", variant, "--model", model]
    for name in ("data", "imgsz", "batch", "device", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    return result_of(command)


def summary(results: list[dict]) -> str:
    """Return time and memory of each variant, and their ratios to full fine-tuning, as a Markdown table.

    The time is the median over rounds of each round's median; a ratio is that of these times. Memory, the last round's,
    is the peak allocated in a step; with a CUDA graph, what its pool and everything else reserve.
    """
    lines = [
        "| model | variant | trainable | ms a step | against full | memory, GiB | against full |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model in dict.fromkeys(result["model"] for result in results):
        runs = [result for result in results if result["model"] == model]
        full = [run for run in runs if run["label"] == "full"]
        for variant in dict.fromkeys(run["label"] for run in runs):
            rounds = [run for run in runs if run["label"] == variant]
            ms, full_ms = (statistics.median(run["ms"] for run in each) for each in (rounds, full))
            cells = [model, variant, f"{rounds[0]['trainable']:,}", f"{ms:.1f}", f"{ms / full_ms:.2f}"]
            if rounds[0]["memory_gib"] is None:
                cells += ["-", "-"]
            else:
                gib, full_gib = (each[-1]["memory_gib"] for each in (rounds, full))
                cells += [f"{gib:.2f}", f"{gib / full_gib:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(results: list[dict]) -> str:
    """Return the milliseconds of the parts of a step, which wait for one another, beside a usual step's."""
    lines = ["| model | part | ms |", "| --- | --- | ---: |"]
    for model in dict.fromkeys(run["model"] for run in results):
        runs = {run["label"]: run for run in results if run["model"] == model}
        apart = runs["lora, parts"]["parts_ms"]
        lines += [f"| {model} | {part} | {ms:.1f} |" for part, ms in apart.items()]
        lines.append(f"| {model} | all of them, one after another | {sum(apart.values()):.1f} |")
        lines.append(f"| {model} | the usual step | {runs['lora']['ms']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, help="checkpoint, or a description: yolo11s.yaml")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--variants",
        default=";".join(each for each in VARIANTS if each != "lora, parts"),
        help=f"separated by semicolons; {PARTS!r}: the parts of a step",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="0")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for _ in range(options.rounds):
        for model in options.model:
            for variant in options.variants.split(";"):
                results.append(measure(variant, model, options))
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                print({key: results[-1][key] for key in ("model", "label", "ms", "memory_gib")}, flush=True)
    print(parts(results) if options.variants == PARTS else summary(results))


if __name__ == "__main__":
    main()
