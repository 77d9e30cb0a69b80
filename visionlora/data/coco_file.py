"""A COCO ground truth with its pictures: boxes, and crowds that are neither missed nor false alarms."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from visionlora.data.dataset import Dataset, LabelledImage
from visionlora.data.images import image_size
from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError

_FOLDERS = (".", "images", "..", "../images")


def load_coco(path: Path | str, *, split: str = "val") -> Dataset:
    """Load a COCO detection ground truth; its pictures lie beside it.

    A picture's `file_name` counts from the folder of the file, from `images` in it, from the folder above, or from
    `images` in that: the first of them that has all the pictures. Boxes are clipped to the image. `iscrowd` or `ignore`
    makes a box a crowd. The category ids are put in order; class ids count from 0.

    Args:
        path: the .json file.
        split: what to call its only split.

    Raises:
        DataError: the file is no COCO ground truth, a picture is missing or broken, or a box is wrong; all problems of
            the pictures and boxes are listed at once.

    Example:
        >>> load_coco("instances_val2017.json").split("val")[0].size_wh  # doctest: +SKIP
        (640, 426)
    """
    path = Path(path)
    fields = _read(path)
    categories = sorted(fields["categories"], key=lambda one: one["id"])
    names = tuple(str(one["name"]) for one in categories)
    class_of = {one["id"]: index for index, one in enumerate(categories)}
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in fields["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    folder = _folder(path, [one["file_name"] for one in fields["images"]])
    problems: list[str] = []
    images = []
    for one in sorted(fields["images"], key=lambda one: one["file_name"]):
        image = _image(folder / one["file_name"], by_image.pop(one["id"], []), class_of, problems)
        if image is not None:
            images.append(image)
    if by_image:
        problems.append(f"{shown(path)}: annotations of {len(by_image)} images that are not listed; correct image_id")
    raise_problems(problems)
    return Dataset(path, names, {split: tuple(images)})


def _read(path: Path) -> dict[str, Any]:
    """Return the file's object, after checking that it has COCO's three lists with their fields."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{shown(path)}: expected a COCO ground truth, got none that can be read; {error}") from error
    asked = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for name, keys in asked.items():
        entries = fields.get(name) if isinstance(fields, dict) else None
        if not isinstance(entries, list) or not all(isinstance(one, dict) and set(keys) <= set(one) for one in entries):
            raise DataError(
                f"{shown(path)}: expected a COCO ground truth with {name}, each with {', '.join(keys)}, "
                "got another form"
            )
    return fields


def _folder(path: Path, file_names: list[str]) -> Path:
    """Return the folder that the pictures' names count from."""
    for place in _FOLDERS:
        folder = path.parent / place
        if all((folder / name).is_file() for name in file_names):
            return folder
    return path.parent  # reading the pictures will say what is missing


def _image(
    path: Path, annotations: list[dict[str, Any]], class_of: dict[Any, int], problems: list[str]
) -> LabelledImage | None:
    """Return one image with its boxes; add what is wrong with them to `problems`."""
    try:
        size_wh = image_size(path)
    except DataError as error:
        problems.append(str(error))
        return None
    boxes, class_ids, crowd = [], [], []
    for one in annotations:
        box, where = one["bbox"], f"{shown(path)}: annotation {one.get('id', '?')}"
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, (int, float)) for side in box)
        if not numbers or not np.isfinite(box).all() or box[2] <= 0 or box[3] <= 0:
            problems.append(f"{where}: expected bbox [x, y, width, height] in pixels with a size above 0, got {box}")
        elif one["category_id"] not in class_of:
            problems.append(f"{where}: expected a category_id among {sorted(class_of)}, got {one['category_id']}")
        else:
            boxes.append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
            class_ids.append(class_of[one["category_id"]])
            crowd.append(bool(one.get("iscrowd") or one.get("ignore")))
    clipped = np.clip(np.array(boxes).reshape(-1, 4), 0, np.array(size_wh * 2)).astype(np.float32)
    return LabelledImage(path, size_wh, clipped, np.array(class_ids, dtype=np.int64), np.array(crowd, dtype=bool))
