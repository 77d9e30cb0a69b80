"""What patching and switching adapters cost, and how far they are from the exported merged models."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import visionlora as vl
from visionlora.machine import installed_versions, this_machine
from visionlora.runtime import OnnxNetwork


def main() -> None:
    """Measure, write the raw results, print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--model", required=True, help="the base (.pt)")
    parser.add_argument("--adapter", action="append", required=True, help="adapter of this base; at least two")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args.model, args.adapter, args.imgsz, Path(folder))
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))


def measure(model: str, adapters: list[str], image_size: int, folder: Path) -> dict[str, Any]:
    """Return milliseconds and differences."""
    base = vl.export(model, folder / "base.onnx", imgsz=image_size).path
    errors = []
    for number, adapter in enumerate(adapters):
        merged = vl.merge(model, adapter, folder / f"{number}.pt").path
        exported = vl.export(merged, folder / f"{number}.onnx", imgsz=image_size).path
        patched = vl.patch(base, adapter, folder / f"{number}.patched.onnx").path
        noise = np.random.default_rng(number).random((1, 3, image_size, image_size), dtype=np.float32)
        errors.append(float(np.abs(OnnxNetwork(patched)(noise)[0] - OnnxNetwork(exported)(noise)[0]).max()))
    bank, small = vl.AdapterBank(base), vl.AdapterBank(base, limit=1)
    for number, adapter in enumerate(adapters):
        small.add(str(number), adapter)
        bank.add(str(number), adapter)
    names, turns = bank.names, iter(range(10**6))
    return {
        "machine": vars(this_machine()),
        "versions": installed_versions(),
        "image_size": image_size,
        "adapter_bytes": [Path(adapter).stat().st_size for adapter in adapters],
        "largest_difference": max(errors),
        "ms": {
            "patch": timed(lambda: vl.patch(base, adapters[0], folder / "line.onnx", overwrite=True), 10),
            "add": timed(lambda: bank.add("0", adapters[0]), 10),
            "use, ready": timed(lambda: bank.use(names[next(turns) % len(names)]), 1000),
            "use, made again": timed(lambda: small.use(names[next(turns) % len(names)]), 10),
        },
    }


def timed(action: Callable[[], object], runs: int) -> dict[str, float]:
    """Return the median and the largest of some runs, in milliseconds."""
    action()
    milliseconds = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        milliseconds.append(1000 * (time.perf_counter() - started))
    return {"median": statistics.median(milliseconds), "largest": max(milliseconds)}


def summary(results: dict[str, Any]) -> str:
    """Return the table of the page."""
    words = {
        "patch": "`visionlora patch`: a file, written and tried",
        "add": "`AdapterBank.add`: read, patch, start, try",
        "use, ready": "`AdapterBank.use` of one that is ready",
        "use, made again": "`AdapterBank.use` of one that had made room",
    }
    rows = [f"| {words[name]} | {row['median']:.3g} | {row['largest']:.3g} |" for name, row in results["ms"].items()]
    return "\n".join(["| what | median, ms | largest, ms |", "| --- | ---: | ---: |", *rows])


if __name__ == "__main__":
    main()
