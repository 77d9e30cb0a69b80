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
USUAL = [variant for variant in VARIANTS if variant != "lora, parts"]


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


def memory(results: list[dict]) -> str:
    """Return the memory of a step, GiB and as a share of full fine-tuning's, a row for each model."""
    variants = list(dict.fromkeys(run["label"] for run in results))
    lines = ["| model | " + " | ".join(variants) + " |", "| --- |" + " ---: |" * len(variants)]
    for model in dict.fromkeys(run["model"] for run in results):
        last = {run["label"]: run["memory_gib"] for run in results if run["model"] == model}
        cells = [
            f"{last[each]:.2f} ({last[each] / last['full']:.2f})" if last.get(each) and last.get("full") else "-"
            for each in variants
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
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
        help="separated by semicolons",
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
    print(summary(results), memory(results), sep="\n\n")


if __name__ == "__main__":
    main()
