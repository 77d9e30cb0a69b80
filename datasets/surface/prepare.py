"""Generate the pictures of metal surfaces into this folder and check that they hold what README.md says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from visionlora.demonstration.generate import write_counted_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.errors import VisionLoraError

HERE = Path(__file__).resolve().parent
SIZE, SEED = 160, 0
EXPECTED = {
    "train": {"images": 300, "scratch": 80, "pit": 200, "inclusion": 84, "patch": 88, "crack": 96, "stain": 89},
    "val": {"images": 100, "scratch": 26, "pit": 60, "inclusion": 31, "patch": 35, "crack": 34, "stain": 24},
}


def main() -> None:
    """Generate, count what was written, and leave with exit code 1 if it is not what is expected."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        write_counted_dataset(draw_surface, SURFACE_NAMES, HERE, expected=EXPECTED, size=SIZE, seed=SEED)
    except VisionLoraError as error:
        sys.exit(str(error))
    print(f"{HERE}: counts as expected")


if __name__ == "__main__":
    main()
