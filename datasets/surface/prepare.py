"""Generate the pictures of metal surfaces into this folder and check that they hold what README.md says."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from visionlora.demonstration.generate import count_labels, write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.errors import VisionLoraError

HERE = Path(__file__).resolve().parent
PICTURES = {"train": 300, "val": 100}
SIZE, SEED = 160, 0
EXPECTED = {
    "train": {"images": 300, "scratch": 80, "pit": 200, "inclusion": 84, "patch": 88, "crack": 96, "stain": 89},
    "val": {"images": 100, "scratch": 26, "pit": 60, "inclusion": 31, "patch": 35, "crack": 34, "stain": 24},
}


def main() -> None:
    """Generate, count the labels that were written, and leave with exit code 1 if they are not the expected ones."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        write_dataset(draw_surface, SURFACE_NAMES, HERE, counts=PICTURES, size=SIZE, seed=SEED, workers=1)
    except VisionLoraError as error:
        sys.exit(str(error))
    found = count_labels(HERE, SURFACE_NAMES)
    if found != EXPECTED:
        for kind in ("images", "labels"):
            shutil.rmtree(HERE / kind)
        sys.exit(f"{HERE}: expected {EXPECTED}, got {found}; another version of numpy or OpenCV may draw otherwise")
    print(f"{HERE}: {PICTURES['train']} pictures to train, {PICTURES['val']} to validate, counts as expected")


if __name__ == "__main__":
    main()
