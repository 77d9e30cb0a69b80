"""Turn a downloaded NEU-DET into images/ and labels/ beside the data.yaml, in the fixed split, and check the counts.

    python datasets/neu-det/prepare.py DOWNLOAD

DOWNLOAD is the unpacked folder: VOC (IMAGES and ANNOTATIONS, or the copies that sort them into train and validation),
or already in YOLO layout (images/ and labels/, whatever its split).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from visionlora.data import format_labels, label_path, voc_boxes
from visionlora.data.images import image_size
from visionlora.data.preparing import PreparedImage, SplitCounts, images_by_name, run_prepare
from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError

FOLDER = Path(__file__).resolve().parent
NAMES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
TRAIN_IMAGES = 240
"""Of the 300 images of each class, numbers 1 to 240 are for training, 241 to 300 for validation."""
EXPECTED = {
    "train": SplitCounts(1440, dict(zip(NAMES, (526, 851, 687, 345, 496, 427), strict=True))),
    "val": SplitCounts(360, dict(zip(NAMES, (162, 159, 193, 87, 132, 121), strict=True))),
}


def split_of(name: str) -> str:
    """Return the split of an image such as `scratches_241`.

    Raises:
        DataError: the name is not of this form.
    """
    match = re.fullmatch(r"(.+)_(\d+)", name)
    if match is None or match[1] not in NAMES:
        raise DataError(f"{name}: expected a name such as {NAMES[0]}_1, got another; is this NEU-DET?")
    return "train" if int(match[2]) <= TRAIN_IMAGES else "val"


def label_of(image: Path, annotation: Path | None) -> str:
    """Return the text of an image's label file, from its VOC annotation or its YOLO labels.

    Raises:
        DataError: it has neither, or the annotation is wrong.
    """
    if annotation is None:
        if not label_path(image).is_file():
            raise DataError(f"{shown(image)}: expected {image.stem}.xml or {shown(label_path(image))}, got neither")
        return label_path(image).read_text(encoding="utf-8-sig", errors="replace")
    boxes, class_ids = voc_boxes(annotation, NAMES)
    try:
        return format_labels(boxes, class_ids, size_wh=image_size(image))
    except DataError as error:
        raise DataError("\n".join(f"{shown(annotation)}: {line}" for line in str(error).splitlines())) from error


def collect(download: Path) -> list[PreparedImage]:
    """Return all images of a download with split and labels.

    Raises:
        DataError: an image or its labels are missing or wrong; all problems are listed.
    """
    images = images_by_name(download)
    # By name, wherever they lie: in one widespread copy an image and its annotation are in different splits.
    annotations = {path.stem: path for path in sorted(download.rglob("*.xml"))}
    collected, problems = [], []
    for name, image in images.items():
        try:
            collected.append(PreparedImage(image, split_of(name), name, label_of(image, annotations.get(name))))
        except DataError as error:
            problems += str(error).splitlines()
    raise_problems(problems)
    return collected


if __name__ == "__main__":
    sys.exit(run_prepare(collect, FOLDER, expected=EXPECTED))
