"""One YOLO label file: its lines to boxes and back, and all that can be wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.data.reading import decode_utf8, read_bytes
from visionlora.errors import DataError, UsageError
from visionlora.tasks import Task

MAX_LABEL_BYTES = 16 << 20
MAX_OBJECTS = 100_000
"""Lines of a label file; what has more is another file, and would fill memory with what is wrong with each line."""
_NO_CLASS = 1e9  # no data set has so many classes: a first column like that is no class id
_BOX_COLUMNS = 5  # class, x, y, width, height
_EMPTY = np.zeros((0, 4))


@dataclass(frozen=True, eq=False)
class Labels:
    """The objects of one label file.

    Attributes:
        boxes_xyxy: (N, 4) float64, left, top, right, bottom as fractions of the image, clipped to [0, 1].
        class_ids: (N,) int64.
        problems: what is wrong, one line each; if there is anything, boxes of wrong lines are left out.
        highest_class: the highest class id of any line, a wrong one too, if it can be one; -1 where there is none.
        polygons: how many objects are not written as a box, but by the corners of a polygon or of an oriented box.
        rows: the columns of each object behind the class, in float32.
        lines: where each object stands, from 1.
        repeated: lines that say again what an earlier one says.
    """

    boxes_xyxy: NDArray[np.float64] = field(default_factory=_EMPTY.copy)
    class_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    problems: tuple[str, ...] = ()
    highest_class: int = -1
    polygons: int = 0
    rows: tuple[tuple[float, ...], ...] = ()
    lines: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()


def read_labels(path: Path | str, *, class_count: int, task: Task) -> Labels:
    """Read a label file; a missing file is an image without objects.

    Problems, also that the file cannot be read, are returned and not raised, so that a caller can collect those of
    many files.
    """
    path = Path(path)
    try:
        text = decode_utf8(read_bytes(path, "a label file", most=MAX_LABEL_BYTES), path)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError) and not path.is_symlink():  # a link to nothing is an error
            return Labels()
        return Labels(problems=(str(error),))
    return parse_labels(text, shown(path), class_count=class_count, task=task)


def count_classes(path: Path, class_count: int) -> tuple[NDArray[np.int64], list[str]]:
    """Return how many objects of each class a label file of any task has, (class_count,), and what is wrong with it.

    Only the first column of a line is looked at. A missing file is an image without objects.
    """
    counts = np.zeros(class_count, dtype=np.int64)
    try:
        text = decode_utf8(read_bytes(path, "a label file", most=MAX_LABEL_BYTES), path)
    except DataError as error:
        missing = isinstance(error.__cause__, FileNotFoundError) and not path.is_symlink()
        return counts, [] if missing else [str(error)]
    problems = []
    lines = {line.strip(): number for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    for line, number in lines.items():
        try:
            counts[_class_id(_numbers(line.split(maxsplit=1)[:1])[0], class_count)] += 1
        except ValueError as error:
            problems.append(f"{shown(path)}:{number}: {error}")
    return counts, problems


def parse_labels(text: str, where: str, *, class_count: int, task: Task) -> Labels:
    """Parse the lines of a label file: the class, and what the task says, such as `class x y width height`.

    All numbers but the class are fractions of the image's width and height. Repeated lines count once, as in
    Ultralytics' `verify_image_label`.

    Args:
        text: the file's content.
        where: the file's name in messages.
        class_count: classes are 0 to `class_count` - 1.
        task: what a line holds.

    Example:
        >>> from visionlora.tasks import DETECT
        >>> parse_labels("2 0.5 0.5 0.2 0.4", "a.txt", class_count=3, task=DETECT).boxes_xyxy.round(2).tolist()
        [[0.4, 0.3, 0.6, 0.7]]
        >>> parse_labels("3 0.5 0.5 0.2 0.4", "a.txt", class_count=3, task=DETECT).problems
        ('a.txt:1: expected a class id from 0 to 2, got 3; data.yaml names 3 classes',)
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, words) for number, words in lines if words]
    if len(lines) > MAX_OBJECTS:
        problem = f"{where}: expected at most {MAX_OBJECTS} objects in a picture, got {len(lines)}; is it another file?"
        return Labels(problems=(problem,))
    most = max((len(words) for _, words in lines), default=0)
    boxes: dict[tuple[float, ...], NDArray[np.float64]] = {}
    first: dict[tuple[float, ...], int] = {}
    problems, repeated, highest = [], [], -1
    for number, words in lines:
        try:
            task.check_columns(len(words), most)
            values = _numbers(words)
            if abs(values[0]) < _NO_CLASS:
                highest = max(highest, math.floor(values[0]))
            class_id = _class_id(values[0], class_count)
            box = task.label_box(values[1:])
        except ValueError as error:
            problems.append(f"{where}:{number}: {error}")
        else:
            key = (class_id, *np.asarray(values[1:], dtype=np.float32).tolist())
            boxes.setdefault(key, box)
            if first.setdefault(key, number) != number:
                repeated.append(number)
    return Labels(
        np.array(list(boxes.values())).reshape(-1, 4),
        np.array([key[0] for key in boxes], dtype=np.int64),
        tuple(problems),
        highest,
        sum(len(key) > _BOX_COLUMNS for key in boxes),
        tuple(key[1:] for key in boxes),
        tuple(first.values()),
        tuple(repeated),
    )


def format_labels(boxes_xyxy: ArrayLike, class_ids: ArrayLike, *, size_wh: tuple[int, int]) -> str:
    r"""Write boxes as the text of a label file: the inverse of `parse_labels` for boxes.

    Args:
        boxes_xyxy: (N, 4) pixels within the image.
        class_ids: (N,) integers.
        size_wh: width and height of the image in pixels.

    Raises:
        DataError: a box is empty or leaves the image.
        UsageError: the shapes do not fit.

    Example:
        >>> format_labels([[2, 2, 193, 194]], [0], size_wh=(200, 200))
        '0 0.4875 0.49 0.955 0.96\n'
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    ids = np.asarray(class_ids).reshape(-1)
    if len(boxes) != len(ids):
        raise UsageError(f"expected a class id for each box, got {len(ids)} for {len(boxes)}")
    width, height = size_wh
    problems = [
        f"box {index}: expected 0 <= left < right <= {width} and 0 <= top < bottom <= {height}, got {box.tolist()}"
        for index, box in enumerate(boxes, start=1)
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height)
    ]
    raise_problems(problems)
    lines = []
    for (left, top, right, bottom), class_id in zip(boxes, ids, strict=True):
        numbers = (
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        )
        lines.append(f"{int(class_id)} " + " ".join(f"{number:.9g}" for number in numbers) + "\n")
    return "".join(lines)


def label_path(image_path: Path | str) -> Path:
    """Return where an image's labels lie: the last folder `images` becomes `labels`, the suffix `.txt`.

    Example:
        >>> label_path("images/steel/images/train/7.jpg").as_posix()
        'images/steel/labels/train/7.txt'
    """
    path = Path(image_path)
    parts = list(path.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _numbers(words: list[str]) -> list[float]:
    """Return a line's columns as finite numbers, or raise ValueError."""
    values = []
    for word in words:
        try:
            value = float(word) if word.isascii() and "_" not in word else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"expected a number, got {excerpt(word)}; write decimals with a point")
        values.append(value)
    return values


def _class_id(value: float, class_count: int) -> int:
    """Return a whole class id in range, or raise ValueError."""
    if value % 1:
        raise ValueError(f"expected a whole number as class id, got {value:g}; the class is the first column")
    if not 0 <= value < class_count:
        plural = "classes" if class_count > 1 else "class"
        raise ValueError(
            f"expected a class id from 0 to {class_count - 1}, got {value:.15g}; data.yaml names {class_count} {plural}"
        )
    return int(value)
