"""Take the benchmark's images out of a downloaded African wildlife set, put them here and check the counts.

    python datasets/african-wildlife/prepare.py DOWNLOAD

DOWNLOAD is the unpacked african-wildlife.zip of Ultralytics (images/train, labels/train ... or train/images,
train/labels ...), or a folder with the selected images only. Images that selection.json does not name are left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from visionlora.data import label_path
from visionlora.data.preparing import PreparedImage, SplitCounts, images_by_name, run_prepare
from visionlora.data.problems import raise_problems, shown

FOLDER = Path(__file__).resolve().parent
NAMES = ("buffalo", "elephant", "rhino", "zebra")
EXPECTED = {
    "train": SplitCounts(400, dict(zip(NAMES, (132, 187, 150, 220), strict=True))),
    "val": SplitCounts(150, dict(zip(NAMES, (58, 63, 62, 74), strict=True))),
}


def plain(name: str) -> str:
    """Return the name of an image without blanks and brackets: `1 (64)` and `1_64` are both `1_64`."""
    return re.sub(r"^(\d+) ?\((\d+)\)$", r"\1_\2", name)


def selection() -> dict[str, str]:
    """Return the split of each selected image by its plain name."""
    selected = json.loads((FOLDER / "selection.json").read_text(encoding="utf-8"))
    return {
        f"{species}_{number}": split
        for split, numbers_of in selected.items()
        for species, numbers in numbers_of.items()
        for number in numbers
    }


def collect(download: Path) -> list[PreparedImage]:
    """Return the selected images of a download with split and labels.

    Raises:
        DataError: a selected image or its label file is missing; all are listed.
    """
    images = {plain(name): path for name, path in images_by_name(download).items()}
    collected, problems = [], []
    for name, split in selection().items():
        if name not in images:
            problems.append(f"{shown(download)}: expected image {name} (or its name with brackets), got none")
        elif not label_path(images[name]).is_file():
            problems.append(
                f"{shown(images[name])}: expected its labels at {shown(label_path(images[name]))}, got none"
            )
        else:
            label = label_path(images[name]).read_text(encoding="utf-8-sig", errors="replace")
            collected.append(PreparedImage(images[name], split, name, label))
    raise_problems(problems)
    return collected


if __name__ == "__main__":
    sys.exit(run_prepare(collect, FOLDER, expected=EXPECTED))
