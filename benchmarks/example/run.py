"""The example report: the demonstration's models on its generated pictures, and what they forget of generated shapes.

    python benchmarks/example/run.py --work runs/example --out docs/example

Leaves report.html and report.json in --out. Everything is generated: no picture belongs to anybody else.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import visionlora as vl
from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes

SHAPES = {"train": 1, "val": 100}  # pictures; nothing is trained on them here
BUDGET = {"max_drop": 0.02, "max_class_drop": 0.05, "min_map50": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the models and pictures")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = options.work
    if not (work / "model.int8.onnx").is_file():
        vl.demo(work)
    shapes = work / "shapes" / "data.yaml"
    if not shapes.is_file():
        write_dataset(draw_shapes, SHAPE_NAMES, shapes.parent, counts=SHAPES, size=160, seed=1)
    report = vl.evaluate(
        [
            f"base={work / 'base.pt'}",
            f"adapter={work / 'base.pt'}+{work / 'adapter.safetensors'}",
            f"merged={work / 'merged.pt'}",
            f"onnx={work / 'model.onnx'}",
            f"int8={work / 'model.int8.onnx'}",
        ],
        work / "demo_pictures" / "data.yaml",
        imgsz=160,
        retention=shapes,
        out=work / "report",
        html=True,
        title="Surface inspection, first release",
        part="generated plates",
        customer="whoever reads this",
        overwrite=True,
        **BUDGET,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.json"):
        shutil.copy(work / "report" / name, options.out / name)
    print(report.verdict.sentence, report.retention.sentence, sep="\n")


if __name__ == "__main__":
    main()
