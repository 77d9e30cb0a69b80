"""What keeping the base beside an adapter costs, by the first module that the adapter has for itself."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import visionlora as vl
from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, save_adapter
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.cards import preprocessing_card
from visionlora.detectors import family_of
from visionlora.machine import this_machine
from visionlora.runtime import OnnxNetwork
from visionlora.training.keeping import kept_costs

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import provenance


def main() -> None:
    """Measure, write the raw results, print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--model", required=True, help="the base (.pt)")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--starts", type=int, nargs="+", default=[5, 9, 10, 13, 16, 19, 22, 23])
    parser.add_argument("--classes", type=int, default=4, help="new classes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for size in args.imgsz for row in measure(args, size, Path(folder))]
    command = (
        f"benchmarks/keeping/run.py --model {Path(args.model).name} --rounds {args.rounds} --threads {args.threads}"
    )
    results = {"command": command, "machine": vars(this_machine()), **provenance(), "rows": rows}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))


def measure(args: argparse.Namespace, image_size: int, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each first module: files are run in turns, each beside the base of its round."""
    base = vl.export(args.model, folder / f"base{image_size}.onnx", imgsz=image_size).path
    adapters = [write_adapter(args, start, image_size, folder) for start in args.starts]
    files = [base, *(keep(base, adapter) for adapter in adapters)]
    networks = [OnnxNetwork(file, threads=args.threads) for file in files]
    picture = np.random.default_rng(0).random((1, 3, image_size, image_size), dtype=np.float32)
    for network in networks:
        network(picture)
    turns: list[list[float]] = [[] for _ in networks]
    for number in range(args.rounds):
        order = range(len(networks))
        for i in order if number % 2 == 0 else reversed(order):
            turns[i].append(timed(networks[i], picture))
    detector = family_of(Path(args.model)).load(args.model)
    costs = [cost for cost in kept_costs(detector, image_size) if cost.start in args.starts]
    return [
        {
            "image_size": image_size,
            "from": cost.start,
            "multiplications": cost.ratio,
            "ratios": [own / its for own, its in zip(turn, turns[0], strict=True)],
            "ms": turn,
            "base_ms": turns[0],
            "bytes": file.stat().st_size,
            "base_bytes": base.stat().st_size,
            "adapter_bytes": adapter.stat().st_size,
        }
        for cost, turn, file, adapter in zip(costs, turns[1:], files[1:], adapters, strict=True)
    ]


def timed(network: OnnxNetwork, picture: np.ndarray) -> float:
    """Return the milliseconds of the fastest of three calls, the first of which warms the caches."""
    milliseconds = []
    for _ in range(3):
        started = time.perf_counter()
        network(picture)
        milliseconds.append(1000 * (time.perf_counter() - started))
    return min(milliseconds)


def keep(base: Path, adapter: Path) -> Path:
    """Return the file of a base with an adapter beside it."""
    return vl.patch(base, adapter, adapter.with_suffix(".onnx"), keep="exact").path


def write_adapter(args: argparse.Namespace, start: int, image_size: int, folder: Path) -> Path:
    """Write an adapter with random tensors: what they are does not matter to time and bytes."""
    family = family_of(Path(args.model))
    base = family.load(args.model)
    names = tuple(f"new {number}" for number in range(args.classes))
    settings = AdapterSettings(LoRA(rank=8), targets=f"from:{start}")
    detector = family.adapted(base, names, settings)
    generator = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(generator.normal(0, 0.02, shape).astype(np.float32))
        for name, shape in expected_shapes(detector.model, detector.plan).items()
    }
    origin = {"name": base.path.name, "fingerprint": base.fingerprint}
    path = folder / f"{image_size}-{start}.safetensors"
    preprocessing, task = preprocessing_card(image_size), base.task
    card = AdapterCard(settings, names, origin, preprocessing, task=task.name, task_settings=task.settings())
    save_adapter(Adapter(card, tensors), path)
    return path


def summary(results: dict[str, Any]) -> str:
    """Return the table of the page."""
    lines = [
        "| px | from | multiplications | time | middle 90 % | MB | of the base | adapter, MB |",
        "| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        low, high = np.percentile(row["ratios"], [5, 95])
        lines.append(
            f"| {row['image_size']} | {row['from']} | {row['multiplications']:.2f} | "
            f"{statistics.median(row['ratios']):.2f} | {low:.2f}-{high:.2f} | {row['bytes'] / 1e6:.2f} | "
            f"{row['bytes'] / row['base_bytes']:.2f} | {row['adapter_bytes'] / 1e6:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
