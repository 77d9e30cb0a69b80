"""Bytes of a frozen base in each precision, as `visionlora train` holds it: weights, norms, biases, all that is frozen.

    python benchmarks/qlora/memory.py --out benchmarks/qlora/memory.json

The detectors are made from their descriptions, for the bytes do not depend on what the weights are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import NAMES
from visionlora.adapters.torch import attach, frozen_bytes
from visionlora.detectors.ultralytics import plan_detector

DETECTORS = {
    "yolo11n": DetectionModel,
    "yolo11s": DetectionModel,
    "yolo11x": DetectionModel,
    "rtdetr-x": RTDETRDetectionModel,
}


def measure(name: str) -> dict:
    """Return the bytes of one detector's frozen base, by precision, and what is trained beside it."""
    found: dict = {"model": name}
    for precision in NAMES:
        model = DETECTORS[name](f"{name}.yaml", verbose=False)
        found["float32_bytes"] = 4 * sum(parameter.numel() for parameter in model.parameters())
        plan = plan_detector(model, AdapterSettings(base_precision=precision), whole=())
        attach(model, plan)
        found[precision] = frozen_bytes(model)
        found["trained"] = sum(parameter.numel() for parameter in model.parameters())
    return found


def summary(results: list[dict]) -> str:
    """Return megabytes of each base, and shares of all its parameters in float32, as a Markdown table."""
    lines = ["| base | float32, MB | fp16 | int8 | nf4 |", "| --- | ---: | ---: | ---: | ---: |"]
    for found in results:
        cells = [
            f"{found[name] / 1e6:.1f} ({found[name] / found['float32_bytes']:.3f})" for name in ("fp16", "int8", "nf4")
        ]
        lines.append("| " + " | ".join([found["model"], f"{found['float32'] / 1e6:.1f}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = [measure(name) for name in DETECTORS]
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))


if __name__ == "__main__":
    main()
