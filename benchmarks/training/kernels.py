"""Where the time of a training step goes on a GPU: milliseconds of each kind of kernel, and of waiting for the host.

    python benchmarks/training/kernels.py --model yolo11x.yaml --out benchmarks/training/kernels.json

A step of noise with 16 objects an image, as `visionlora plan` measures it: forward, loss, backward, clipping,
optimizer.
Kernels are told apart by their names, as torch's profiler has them. Each result is added to the file.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import ResultsFile
from provenance import provenance
from rivals import write_untrained

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import freeze_norms
from visionlora.detectors.measuring import Runner
from visionlora.detectors.ultralytics.checkpoint import load_base
from visionlora.detectors.ultralytics.measuring import adapted_step, full_model, made_up_batch
from visionlora.detectors.ultralytics.step import TrainingStep

KINDS = (  # the first that matches
    ("convolutions: gradient of the input", r"dgrad|bwd_data|backward_data"),
    ("convolutions: gradient of the weight", r"wgrad|bwd_filter|backward_filter"),
    ("batch normalization", r"batch_?norm|bn_(fw|bw)"),
    ("convolutions, products", r"fprop|conv|gemm|cutlass|nvjet|xmma|cublas"),
    ("bias, SiLU, sums, copies in one pass (ours)", r"^_pass|^_backward"),
    ("optimizer, clipping", r"multi_tensor|adam|lpnorm|foreach"),
    ("copies", r"copy|memcpy|memset|cat|fill|transpose|nchw|nhwc"),
    ("sums over pixels", r"reduce"),
    ("elementwise", r"elementwise|vectorized|silu|triton"),
    ("other", r""),
)
WAYS = {"full": None, "lora": {"lean": False}, "lora, lean": {"lean": True}}
WARM, TIMED, PROFILED = 4, 20, 3


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    return next(kind for kind, words in KINDS if re.search(words, kernel, re.IGNORECASE))


def measure(way: str, model: str, options: argparse.Namespace) -> dict:
    """Return what a step of one way takes, in milliseconds."""
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(write_untrained(model, Path(folder) / f"{Path(model).stem}.pt"))
    names = ("scratch", "pit", "patch", "scale")
    random = np.random.default_rng(0)
    objects = [_objects(random) for _ in range(options.batch)]
    batch = made_up_batch(objects, batch=options.batch, image_size=options.imgsz, device=device)
    settings = WAYS[way]
    if settings is None:
        step = full_model(base, names, freeze=0, device=device)
    else:
        step = adapted_step(base, names, AdapterSettings(), device=device, objects=32, **settings)
    step.train()
    if isinstance(step, TrainingStep):
        freeze_norms(step)
    run = partial(Runner(step, [each for each in step.parameters() if each.requires_grad], device), batch)
    for _ in range(WARM):
        run()
    started = time.perf_counter()
    for _ in range(TIMED):
        run()
    ms = 1000 * (time.perf_counter() - started) / TIMED
    spent: dict[str, float] = defaultdict(float)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(PROFILED):
            run()
    for event in profiled.key_averages():
        spent[kind_of(event.key)] += event.self_device_time_total / 1000 / PROFILED
    busy = sum(spent.values())
    ordered = dict(sorted(spent.items(), key=lambda each: -each[1]))
    return {
        "model": Path(model).stem,
        "way": way,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "ms": round(ms, 2),
        "kernels_ms": round(busy, 2),
        "without_kernels_ms": round(max(ms - busy, 0.0), 2),
        "kinds_ms": {kind: round(each, 2) for kind, each in ordered.items()},
        **provenance(),
    }


def _objects(random: np.random.Generator) -> np.ndarray:
    """Return (16, 5) class, centre and size of made-up objects, as fractions of the image."""
    centres, sizes = random.uniform(0.2, 0.8, (16, 2)), random.uniform(0.05, 0.3, (16, 2))
    return np.column_stack([random.integers(0, 4, 16), centres, sizes])


def table(results: list[dict]) -> str:
    """Return the milliseconds of each kind as a Markdown table, a column a way."""
    kinds = [kind for kind, _ in KINDS]
    lines = [
        "| ms a step | " + " | ".join(f"{each['model']}, {each['way']}" for each in results) + " |",
        "| --- |" + " ---: |" * len(results),
    ]
    for kind in kinds:
        lines.append(f"| {kind} | " + " | ".join(f"{each['kinds_ms'].get(kind, 0):.1f}" for each in results) + " |")
    lines.append("| no kernel runs | " + " | ".join(f"{each['without_kernels_ms']:.1f}" for each in results) + " |")
    lines.append("| the step | " + " | ".join(f"{each['ms']:.1f}" for each in results) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, help="a description: yolo11x.yaml")
    parser.add_argument("--way", choices=tuple(WAYS), action="append", help="all if not given")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    results = ResultsFile(options.out, [])
    for model in options.model:
        for way in options.way or WAYS:
            results.add(measure(way, model, options))
    print(table(results.content))


if __name__ == "__main__":
    main()
