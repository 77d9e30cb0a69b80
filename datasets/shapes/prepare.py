"""Generate the pictures of shapes and textures into this folder and check that they hold what README.md says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from visionlora.demonstration.generate import write_counted_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.errors import VisionLoraError

HERE = Path(__file__).resolve().parent
SIZE, SEED = 160, 0
EXPECTED = {
    "train": {
        "images": 5000,
        "circle": 1113,
        "square": 1182,
        "triangle": 1102,
        "star": 1140,
        "ring": 1136,
        "cross": 1089,
        "arrow": 1043,
        "crescent": 1163,
        "stripes": 1106,
        "checkers": 1106,
        "dots": 1124,
        "lines": 1133,
        "wave": 1104,
        "blob": 1128,
    },
    "val": {
        "images": 500,
        "circle": 103,
        "square": 100,
        "triangle": 102,
        "star": 121,
        "ring": 118,
        "cross": 123,
        "arrow": 111,
        "crescent": 112,
        "stripes": 118,
        "checkers": 109,
        "dots": 115,
        "lines": 109,
        "wave": 100,
        "blob": 116,
    },
}


def main() -> None:
    """Generate, count what was written, and leave with exit code 1 if it is not what is expected."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        write_counted_dataset(draw_shapes, SHAPE_NAMES, HERE, expected=EXPECTED, size=SIZE, seed=SEED)
    except VisionLoraError as error:
        sys.exit(str(error))
    print(f"{HERE}: counts as expected")


if __name__ == "__main__":
    main()
