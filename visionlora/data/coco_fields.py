"""What a COCO ground truth says, checked before a picture is opened: classes, pictures, and the boxes of each."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.data.reading import read_bytes
from visionlora.errors import DataError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import class_names
from visionlora.tasks import Pose, Task
from visionlora.vision.masks import decode_rle

MAX_COCO_BYTES = 4 << 30
_LARGEST = 1e12  # of a coordinate or an area: beyond any picture, and far from where float64 loses pixels
_MOST_SIDE = 1 << 16  # pixels of a picture
_FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class CocoObject:
    """One annotation.

    Attributes:
        where: which one, in messages.
        box_xywh: left, top, width and height in pixels, the last two above 0.
        class_id: index into the names.
        area: in square pixels, of the object rather than its box; None where the file does not say.
        crowd: whether it is `iscrowd` or `ignore`.
        segmentation: polygons (P, 2) in pixels or an RLE, where masks are asked for.
        keypoints: (K, 3) x, y in pixels and visibility, where keypoints are asked for.
    """

    where: str
    box_xywh: tuple[float, float, float, float]
    class_id: int
    area: float | None
    crowd: bool
    segmentation: Any = None
    keypoints: Any = None


@dataclass(frozen=True)
class CocoPicture:
    """One entry of `images`.

    Attributes:
        file_name: as written.
        size_wh: width and height in pixels as written; None where the file does not say.
        objects: its annotations that are right.
    """

    file_name: str
    size_wh: tuple[float | None, float | None]
    objects: tuple[CocoObject, ...]


@dataclass(frozen=True)
class CocoTruth:
    """What a file says.

    Attributes:
        names: class names in the order of the category ids; class ids count from 0.
        pictures: ordered by name.
        problems: what is wrong with annotations, one line each.
    """

    names: tuple[str, ...]
    pictures: tuple[CocoPicture, ...]
    problems: tuple[str, ...]


def read_coco(path: Path, *, option: str = "--data", task: Task | None = None) -> CocoTruth:
    """Read a file's classes, pictures and annotations: boxes, and the masks or keypoints that a task asks for.

    `option` names the file on the command line.

    Raises:
        DataError: the file is no COCO ground truth, or its pictures or categories are wrong; all of these problems are
            listed. Those of annotations are returned, so that a caller can add what is wrong with the pictures.
    """
    fields = _load(path, option)
    problems: list[str] = []
    categories = _categories(fields["categories"], problems)
    images = fields["images"]
    _check_images(images, problems)
    raise_problems([f"{shown(path)}: {problem}" for problem in problems])
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    objects = _objects(shown(path), fields["annotations"], class_of, images, problems, task)
    pictures = [
        CocoPicture(image["file_name"], (image.get("width"), image.get("height")), tuple(objects[image["id"]]))
        for image in sorted(images, key=lambda image: image["file_name"])
    ]
    return CocoTruth(tuple(category["name"] for category in categories), tuple(pictures), tuple(problems))


def _load(path: Path, option: str) -> Mapping[str, list[dict[str, Any]]]:
    """Return the file's object, after checking that it has COCO's three lists with their fields."""
    content = read_bytes(path, "a COCO ground truth", most=MAX_COCO_BYTES, option=option)
    try:
        fields = parse_json(content)
    except ValueError as error:
        raise DataError(
            f"{shown(path)}: expected a COCO ground truth, got no JSON that can be read; {error}"
        ) from error
    expected = f"{shown(path)}: expected a COCO ground truth with images, annotations and categories"
    if not isinstance(fields, dict):
        raise DataError(
            f"{expected}, got {'a list, as of detections' if isinstance(fields, list) else excerpt(fields)}"
        )
    for name, keys in _FIELDS.items():
        entries = fields.get(name)
        if not isinstance(entries, list):
            got = f"{name} that are no list" if name in fields else f"the keys {excerpt(list(fields))}"
            raise DataError(f"{expected}, got {got}")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict) or not all(key in entry for key in keys):
                got = f"the keys {excerpt(list(entry))}" if isinstance(entry, dict) else excerpt(entry)
                raise DataError(
                    f"{expected}, each of the {name} with {', '.join(keys)}; got {name}[{index}] with {got}"
                )
    return fields


def _categories(categories: list[dict[str, Any]], problems: list[str]) -> list[dict[str, Any]]:
    """Return the categories in the order of their ids; add what is wrong to `problems`."""
    if not categories:
        problems.append("expected at least one category, got none; is it a list of pictures for testing?")
        return []
    wrong = [category["id"] for category in categories if not _is_whole(category["id"])]
    if wrong:
        problems.append(f"expected whole numbers as the ids of categories, got {excerpt(wrong[0])}; correct it")
        return []
    try:
        names = class_names([category["name"] for category in categories])
    except ValueError as error:
        problems.append(f"categories: {error}; write it as text in quotes")
        return []
    for what, values in (("id", [category["id"] for category in categories]), ("name", names)):
        twice = _repeated(values)
        if twice:
            problems.append(
                f"expected each category once, got the {what} {excerpt(twice[0])} twice; rename or join them"
            )
    return sorted(categories, key=lambda category: category["id"])


def _check_images(images: list[dict[str, Any]], problems: list[str]) -> None:
    """Add what is wrong with the entries of the pictures to `problems`."""
    count = len(problems)
    for index, image in enumerate(images):
        file_name = image["file_name"]
        if not _is_id(image["id"]):
            problems.append(f"images[{index}]: expected a whole number or text as id, got {excerpt(image['id'])}")
        if not isinstance(file_name, str) or not file_name.strip() or "\0" in file_name:
            problems.append(f"images[{index}]: expected the name of a file as file_name, got {excerpt(file_name)}")
        for side in ("width", "height"):
            if image.get(side) is not None and not _is_number(image[side]):
                problems.append(f"images[{index}]: expected {side} in pixels, got {excerpt(image[side])}")
    if len(problems) > count:
        return
    normal = [os.path.normpath(image["file_name"]) for image in images]
    for what, values in (("id", [image["id"] for image in images]), ("file_name", normal)):
        twice = _repeated(values)
        if twice:
            problems.append(
                f"expected each picture once in images, got the {what} {excerpt(twice[0])} more than once; "
                "leave one entry and give it the annotations of all"
            )


def _objects(
    file: str,
    annotations: list[dict[str, Any]],
    class_of: Mapping[int, int],
    images: list[dict[str, Any]],
    problems: list[str],
    task: Task | None,
) -> Mapping[Any, list[CocoObject]]:
    """Return the annotations by the id of their picture; add what is wrong to `problems`."""
    file_names = {image["id"]: image["file_name"] for image in images}
    known = excerpt(sorted(class_of))
    objects: dict[Any, list[CocoObject]] = defaultdict(list)
    strangers = set()
    for index, annotation in enumerate(annotations):
        where = (
            f"{file}: annotation {annotation['id']}"
            if _is_whole(annotation.get("id"))
            else f"{file}: annotations[{index}]"
        )
        image_id = annotation["image_id"]
        if not _is_id(image_id):
            problems.append(f"{where}: expected image_id to be the id of a picture, got {excerpt(image_id)}")
        elif image_id not in file_names:
            strangers.add(image_id)
        else:
            where = f"{where} of {file_names[image_id]}"
            try:
                objects[image_id].append(_object(annotation, class_of, known, where, task))
            except ValueError as error:
                problems.append(f"{where}: {error}")
    if strangers:
        problems.append(f"{file}: annotations of {len(strangers)} images that are not listed; correct image_id")
    return objects


def _object(
    annotation: Mapping[str, Any], class_of: Mapping[int, int], known: str, where: str, task: Task | None
) -> CocoObject:
    """Return one annotation, or raise ValueError; `known` are the ids of the classes in a message."""
    box, category, area = annotation["bbox"], annotation["category_id"], annotation.get("area")
    numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    if not numbers or box[2] <= 0 or box[3] <= 0:
        raise ValueError(f"expected bbox [x, y, width, height] in pixels with a size above 0, got {excerpt(box)}")
    if not _is_whole(category) or category not in class_of:
        raise ValueError(f"expected a category_id among {known}, got {excerpt(category)}")
    if area is not None and (not _is_number(area) or area < 0):
        raise ValueError(f"expected area in square pixels, got {excerpt(area)}; it may be left out")
    crowd = [_flag(annotation, name) for name in ("iscrowd", "ignore")]
    x, y, width, height = map(float, box)
    truth = task.truth if task else ""
    return CocoObject(
        where,
        (x, y, width, height),
        class_of[category],
        None if area is None else float(area),
        any(crowd),
        _segmentation(annotation) if truth == "segments" else None,
        _keypoints(annotation, task.keypoints) if isinstance(task, Pose) else None,
    )


def _segmentation(annotation: Mapping[str, Any]) -> Any:
    """Return an annotation's polygons, (P, 2) each, or its RLE; raise ValueError where it has neither."""
    value = annotation.get("segmentation")
    if isinstance(value, dict):
        if not _is_rle(value):
            raise ValueError(
                f"expected an RLE with size [height, width] and counts of its pixels, got {excerpt(value)}"
            )
        return {"size": value["size"], "counts": value["counts"]}
    right = (
        isinstance(value, list)
        and value
        and all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_is_number, polygon))
            for polygon in value
        )
    )
    if not right:
        raise ValueError(
            "expected segmentation with polygons [[x1, y1, x2, y2, x3, y3, ...]] or an RLE, got "
            f"{excerpt(value)}; a task of masks needs one for each object"
        )
    assert isinstance(value, list)
    return tuple(np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in value)


def _is_rle(value: Mapping[str, Any]) -> bool:
    """Whether runs, as numbers or compressed, can be read, and fill their size."""
    size, counts = value.get("size"), value.get("counts")
    sides = (
        isinstance(size, list) and len(size) == 2 and all(_is_whole(side) and 0 < side < _MOST_SIDE for side in size)
    )
    if not sides or not isinstance(size, list):
        return False
    if isinstance(counts, list):
        return all(_is_whole(run) and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]
    try:
        return isinstance(counts, str) and bool(decode_rle(value).size)
    except (UsageError, ValueError):
        return False


def _keypoints(annotation: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    """Return an annotation's keypoints (K, 3), or raise ValueError."""
    value = annotation.get("keypoints")
    if not isinstance(value, list) or len(value) != 3 * count or not all(map(_is_number, value)):
        got = f"{len(value)} numbers" if isinstance(value, list) and all(map(_is_number, value)) else excerpt(value)
        raise ValueError(
            f"expected keypoints [x1, y1, v1, ...] of {count}, as the model has them, {3 * count} numbers, got {got}"
        )
    points = np.array(value, dtype=np.float64).reshape(-1, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ValueError(f"expected visibility 0, 1 or 2 of each keypoint, got {excerpt(points[:, 2].tolist())}")
    return points


def _flag(annotation: Mapping[str, Any], name: str) -> bool:
    """Return a flag, or raise ValueError: a text would count as true whatever it says."""
    value = annotation.get(name)
    if value is None:
        return False
    if not isinstance(value, int | float) or value not in (0, 1):
        raise ValueError(f"expected {name} to be 0 or 1, got {excerpt(value)}; write it as a number")
    return bool(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Whether a value is a number that pixels can be; NaN and infinity, which Python's JSON takes, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _repeated(values: Iterable[Hashable]) -> Sequence[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
