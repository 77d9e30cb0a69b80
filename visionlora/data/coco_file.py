"""A COCO ground truth with its pictures: boxes, and crowds that are neither missed nor false alarms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.data.coco_fields import CocoObject, CocoPicture, read_coco
from visionlora.data.dataset import Dataset, LabelledImage, Segmentation
from visionlora.data.images import image_size
from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.errors import DataError
from visionlora.tasks import DETECT, OBJECT_IN_BOX, SLACK, Pose, Task
from visionlora.vision.masks import decode_rle

_FOLDERS = (".", "images", "..", "../images")


def load_coco(path: Path | str, *, split: str = "val", task: Task = DETECT) -> Dataset:
    """Load a COCO ground truth; its pictures lie beside it.

    A picture's `file_name` counts from the folder of the file, from `images` in it, from the folder above, or from
    `images` in that, or, as in COCO's own layout, from a folder in one of these that is named like the end of the file:
    `annotations/instances_val2017.json` beside `val2017`. The first that has all the pictures is taken.

    Boxes are clipped to the picture. `iscrowd` or `ignore` makes a box a crowd. `area`, where it is given, decides
    whether an object is small, medium or large. Where `width` and `height` are given, they must be the picture's.
    The category ids are put in order; class ids count from 0. A task of masks needs `segmentation` of each object, one
    of keypoints `keypoints`; COCO knows no oriented boxes.

    Args:
        path: the .json file.
        split: what to call its only split.
        task: what is read of an annotation beside its box.

    Raises:
        DataError: the file is no COCO ground truth, a picture is missing, broken or of another size, or a box is wrong;
            all problems of the pictures and boxes are listed at once.

    Example:
        >>> load_coco("instances_val2017.json").split("val")[0].size_wh  # doctest: +SKIP
        (640, 426)
    """
    path = Path(path)
    names, images, problems, hint = collect_coco(path, task)
    raise_problems(problems, hint=hint)
    return Dataset(path, names, {split: images})


def coco_paths(path: Path) -> tuple[Path, ...]:
    """Return the picture files that a COCO ground truth lists, those that are there.

    Raises:
        DataError: the file is no COCO ground truth.
    """
    names = [picture.file_name for picture in read_coco(path).pictures]
    folder = _folder(path, names)
    return tuple(place for name in names if os.path.isfile(place := folder / name))


def collect_coco(path: Path, task: Task) -> tuple[tuple[str, ...], tuple[LabelledImage, ...], list[str], str]:
    """Return the class names, the images that are right, what is wrong, a line each, and a hint on all of that.

    Raises:
        DataError: the file is no COCO ground truth.
    """
    if task.truth == "obb":
        raise DataError(f"{shown(path)}: expected a data.yaml, got COCO, which knows no oriented boxes; convert it")
    truth = read_coco(path, task=task)
    folder = _folder(path, [picture.file_name for picture in truth.pictures])
    problems, images, hint = list(truth.problems), [], ""
    for picture in truth.pictures:
        place = folder / picture.file_name
        if os.path.isfile(place):
            images += _images(place, picture, shown(path), problems, task)
        else:
            problems.append(f"{shown(place)}: expected a picture, got no file")
            hint = f"pictures of {shown(path)} are looked for in {', '.join(map(shown, _places(path)))}"
    return truth.names, tuple(images), problems, hint


def _places(path: Path) -> list[Path]:
    """Return the folders that the pictures' names may count from, the likeliest first."""
    ends = dict.fromkeys((path.stem, path.stem.partition("_")[2], path.stem.rpartition("_")[2]))
    named = [f"{folder}/{end}" for end in ends if end for folder in _FOLDERS]
    return [Path(os.path.normpath(path.parent / place)) for place in (*_FOLDERS, *named)]


def _folder(path: Path, file_names: Sequence[str]) -> Path:
    """Return the folder that the pictures' names count from: with all of them, else with the most."""
    places = _places(path)
    for folder in places:
        if all(os.path.isfile(folder / name) for name in file_names):
            return folder
    return max(places, key=lambda folder: sum(os.path.isfile(folder / name) for name in file_names))


def _images(path: Path, picture: CocoPicture, file: str, problems: list[str], task: Task) -> list[LabelledImage]:
    """Return the image with its boxes, or none; add what is wrong with them to `problems`."""
    try:
        size_wh = image_size(path)
    except DataError as error:
        problems.append(str(error))
        return []
    if any(said not in (None, real) for said, real in zip(picture.size_wh, size_wh, strict=True)):
        problems.append(_other_size(path, picture, size_wh, file))
        return []
    objects = picture.objects
    boxes = np.array([entry.box_xywh for entry in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # to xyxy
    clipped = np.clip(boxes, 0, np.array(size_wh * 2)).astype(np.float32)
    tiny = ((boxes >= -SLACK) & (boxes <= 1 + SLACK)).all(axis=1)
    outside = set(np.flatnonzero((clipped[:, :2] >= clipped[:, 2:]).any(axis=1)).tolist())
    for index in sorted(outside.union(np.flatnonzero(tiny).tolist())):
        one, got = objects[index], excerpt(list(objects[index].box_xywh))
        problems.append(
            f"{one.where}: expected bbox [x, y, width, height] inside the {size_wh[0]} x {size_wh[1]} pixels of the "
            f"picture, got {got}; correct or delete it"
            if index in outside
            else f"{one.where}: expected bbox in pixels, got {got}, which lies in the first pixel; multiply fractions "
            "by the picture's width and height"
        )
    class_ids, crowd = np.array([entry.class_id for entry in objects]), np.array([entry.crowd for entry in objects])
    image = LabelledImage(path, size_wh, clipped, class_ids, crowd, **_more(objects, size_wh, task, problems))
    own = _areas(image, task)
    areas = np.array([mine if one.area is None else one.area for one, mine in zip(objects, own.tolist(), strict=True)])
    return [image if np.array_equal(areas, image.object_areas) else replace(image, areas=areas)]


def _areas(image: LabelledImage, task: Task) -> NDArray[np.float64]:
    """Return the areas that objects have where the file does not say: of their masks, else by their boxes."""
    if image.segments is None:
        return image.object_areas * (OBJECT_IN_BOX if isinstance(task, Pose) else 1)
    return np.array([_area(segment) for segment in image.segments], dtype=np.float64)


def _area(segment: Segmentation) -> float:
    if not isinstance(segment, dict):
        return sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in segment)
    counts = segment["counts"]
    return sum(counts[1::2]) if isinstance(counts, list) else int(decode_rle(segment).sum())


def _more(objects: Sequence[CocoObject], size_wh: tuple[int, int], task: Task, problems: list[str]) -> dict[str, Any]:
    """Return what the task asks for beside boxes, as fields of the image; add what is wrong to `problems`."""
    if isinstance(task, Pose):
        return {"keypoints": np.array([entry.keypoints for entry in objects]).reshape(-1, task.keypoints, 3)}
    if task.truth != "segments":
        return {}
    for one in objects:
        rle = one.segmentation
        if isinstance(rle, dict) and rle["size"] != [size_wh[1], size_wh[0]]:
            problems.append(f"{one.where}: expected an RLE of size {[size_wh[1], size_wh[0]]}, got {rle['size']}")
    return {"segments": tuple(entry.segmentation for entry in objects)}


def _other_size(path: Path, picture: CocoPicture, size_wh: tuple[int, int], file: str) -> str:
    """Say that a picture is not of the size that the file says: its boxes would lie elsewhere."""
    said = " x ".join("?" if side is None else f"{side:g}" for side in picture.size_wh)
    if picture.size_wh == size_wh[::-1]:
        do = (
            "width and height are swapped, or are those before the picture is turned as its EXIF orientation says: "
            "write size and boxes of the picture as it is displayed"
        )
    else:
        do = "was it resized? its boxes belong to the other size: take the original picture, or scale size and boxes"
    return (
        f"{shown(path)}: expected {said} pixels (width x height), as {file} says, got {size_wh[0]} x {size_wh[1]}; {do}"
    )
