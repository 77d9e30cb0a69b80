"""Generate the pictures of shapes and textures into this folder and check that they hold what README.md says."""

from __future__ import annotations

import sys
from pathlib import Path

from visionlora.demonstration.generate import count_labels, write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.errors import VisionLoraError

HERE = Path(__file__).resolve().parent
PICTURES = {"train": 8000, "val": 800}
SIZE, SEED = 160, 0
EXPECTED = {
    "train": {
        "images": 8000,
        "circle": 1831,
        "square": 1853,
        "triangle": 1744,
        "star": 1885,
        "ring": 1842,
        "cross": 1785,
        "arrow": 1716,
        "crescent": 1822,
        "stripes": 1747,
        "checkers": 1793,
        "dots": 1811,
        "lines": 1855,
        "wave": 1773,
        "blob": 1797,
    },
    "val": {
        "images": 800,
        "circle": 156,
        "square": 167,
        "triangle": 173,
        "star": 183,
        "ring": 173,
        "cross": 181,
        "arrow": 183,
        "crescent": 178,
        "stripes": 182,
        "checkers": 183,
        "dots": 185,
        "lines": 177,
        "wave": 172,
        "blob": 188,
    },
}


def main() -> None:
    """Generate, count the labels that were written, and leave with exit code 1 if they are not the expected ones."""
    try:
        write_dataset(draw_shapes, SHAPE_NAMES, HERE, counts=PICTURES, size=SIZE, seed=SEED, workers=2)
    except VisionLoraError as error:
        sys.exit(str(error))
    found = count_labels(HERE, SHAPE_NAMES)
    if found != EXPECTED:
        sys.exit(f"{HERE}: expected {EXPECTED}, got {found}; another version of numpy or OpenCV may draw otherwise")
    print(f"{HERE}: {PICTURES['train']} pictures to train, {PICTURES['val']} to validate, counts as expected")


if __name__ == "__main__":
    main()
