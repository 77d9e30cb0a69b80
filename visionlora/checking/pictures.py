"""One picture of a data set as a check needs it: its size, what its bytes and its pixels hash to, and its labels."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionlora.data import Description, LabelledImage, Labels, checked_size, label_path, labels_of, shown
from visionlora.errors import DataError
from visionlora.tasks import DETECT, Pose, Task

HASH_SIDE = 16
"""Of the perceptual hash, which has the square of it as bits."""
_HEAD = 1 << 16
_REDUCED = 256
"""Pixels of the shorter side from which a JPEG is decoded at a quarter: what is left is as large as ImageHash wants."""
_SPILL = 0.01
_BEFORE_POINTS = 5  # columns of a pose label: class, x, y, width, height
_NO_BOXES = np.zeros((0, 4), dtype=np.float32)
_NO_IDS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and its objects.

    Attributes:
        path: the file.
        split: that it is in.
        label: the label file, or the file that holds the labels of all.
        size_wh: width and height in pixels as displayed; None where the picture cannot be used.
        boxes_xyxy: (N, 4) float32 pixels, of the labels that are right.
        class_ids: (N,) int64.
        lines: of the objects in the label file; None where labels are no lines.
        problems: what `train` or `eval` refuses, a line each; those of the picture itself first.
        broken: how many of these are of the picture itself.
        labelled: whether there is a label file.
        repeated: lines that say again what an earlier one says.
        polygons: objects that are not written as a box.
        rows: the columns behind the class, where labels are lines that are no boxes, else empty.
        spilled: indices of boxes that leave the picture, and are clipped.
        turned: whether its EXIF tag turns or mirrors it.
        digest: of the bytes; empty where they cannot be read.
        bits: perceptual hash, (HASH_SIDE ** 2,) bool; None without ImageHash, or of a picture that cannot be used.
    """

    path: Path
    split: str
    label: Path
    size_wh: tuple[int, int] | None = None
    boxes_xyxy: NDArray[np.float32] = field(default_factory=_NO_BOXES.copy)
    class_ids: NDArray[np.int64] = field(default_factory=_NO_IDS.copy)
    lines: tuple[int, ...] | None = None
    problems: tuple[str, ...] = ()
    broken: int = 0
    labelled: bool = True
    repeated: tuple[int, ...] = ()
    polygons: int = 0
    rows: tuple[tuple[float, ...], ...] = ()
    spilled: tuple[int, ...] = ()
    turned: bool = False
    digest: bytes = b""
    bits: NDArray[np.bool_] | None = None

    def place(self, index: int) -> str:
        """Return where an object is labelled: `file:line`, or the picture where labels are no lines."""
        return shown(self.path) if self.lines is None else f"{shown(self.label)}:{self.lines[index]}"


def can_hash() -> bool:
    """Return whether ImageHash is installed, without which near-duplicates are not looked for."""
    return importlib.util.find_spec("imagehash") is not None


def look_at_lines(path: Path, split: str, description: Description, task: Task, *, hashed: bool) -> Picture:
    """Return a picture with the labels of its label file.

    Args:
        path: the picture.
        split: that it is in.
        description: of the data set.
        task: what a line holds.
        hashed: whether to find the perceptual hash.
    """
    size_wh, problems = _size(path)
    labels = labels_of(path, len(description.names), task)
    if labels.problems and task.name == DETECT.name:
        labels = _if_keypoints(path, len(description.names)) or labels
    scale = np.array((size_wh or (1, 1)) * 2)
    return Picture(
        path,
        split,
        label_path(path),
        size_wh,
        (labels.boxes_xyxy * scale).astype(np.float32),
        labels.class_ids,
        labels.lines,
        (*problems, *labels.problems),
        len(problems),
        os.path.lexists(label_path(path)),
        labels.repeated,
        labels.polygons,
        labels.rows if labels.polygons else (),
        _spilled(labels),
        *_pixels(path, size_wh, hashed=hashed),
    )


def look_at_class(path: Path, split: str, class_id: int, *, hashed: bool) -> Picture:
    """Return a picture of a classifier's data set, whose folder says its class."""
    size_wh, problems = _size(path)
    turned, digest, bits = _pixels(path, size_wh, hashed=hashed)
    box = np.array([[0, 0, *(size_wh or (1, 1))]], dtype=np.float32)
    return Picture(
        path,
        split,
        path.parent,
        size_wh,
        box,
        np.array([class_id]),
        problems=problems,
        broken=len(problems),
        turned=turned,
        digest=digest,
        bits=bits,
    )


def look_at_loaded(image: LabelledImage, split: str, file: Path, *, hashed: bool) -> Picture:
    """Return a picture whose labels a COCO ground truth holds, which was read."""
    turned, digest, bits = _pixels(image.path, image.size_wh, hashed=hashed)
    boxes, class_ids = image.boxes_xyxy[~image.is_crowd], image.class_ids[~image.is_crowd]
    return Picture(image.path, split, file, image.size_wh, boxes, class_ids, turned=turned, digest=digest, bits=bits)


def _size(path: Path) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    try:
        return checked_size(path), ()
    except DataError as error:
        return None, (str(error),)


def _if_keypoints(path: Path, class_count: int) -> Labels | None:
    """Return labels whose one problem is that they are of a pose data set, if that is what they are."""
    place = label_path(path)
    try:
        with open(place, "rb") as file:
            columns = len(file.readline(_HEAD).split())
    except OSError:
        return None
    count = (columns - _BEFORE_POINTS) // 3
    if count < 1 or columns != _BEFORE_POINTS + 3 * count or labels_of(path, class_count, Pose(count, 3)).problems:
        return None
    return Labels(
        problems=(
            f"{shown(place)}: expected boxes, got what looks like a box and {count} keypoints a line (pose); "
            f"add 'kpt_shape: [{count}, 3]' to the data.yaml, or delete the columns behind the fifth",
        )
    )


def _spilled(labels: Labels) -> tuple[int, ...]:
    """Return the objects, written as x, y, width, height, whose box leaves the picture by more than rounding."""
    found = []
    for index, row in enumerate(labels.rows):
        if len(row) == 4:
            x, y, width, height = row
            sides = (width / 2 - x, height / 2 - y, x + width / 2 - 1, y + height / 2 - 1)
            if max(sides) > _SPILL:
                found.append(index)
    return tuple(found)


def _pixels(
    path: Path, size_wh: tuple[int, int] | None, *, hashed: bool
) -> tuple[bool, bytes, NDArray[np.bool_] | None]:
    """Return whether EXIF turns a picture, the digest of its bytes, and its perceptual hash."""
    try:
        data = path.read_bytes() if size_wh else b""
    except OSError:  # gone since its size was read
        data = b""
    if not data or size_wh is None:
        return False, b"", None
    exif = Image.Exif()
    start = data.find(b"Exif\0\0", 0, _HEAD)
    if start >= 0:
        try:
            exif.load(data[start : start + _HEAD])
        except (OSError, SyntaxError, ValueError, LookupError, TypeError):  # damaged: it turns nothing
            exif = Image.Exif()
    turned = exif.get(0x0112, 1) in range(2, 9)
    return turned, hashlib.sha256(data).digest(), _hash(data, size_wh) if hashed else None


def _hash(data: bytes, size_wh: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the perceptual hash of a picture's bytes: the signs of its lowest frequencies (pHash, by ImageHash)."""
    import imagehash  # an extra

    fraction = cv2.IMREAD_REDUCED_GRAYSCALE_4 if min(size_wh) >= _REDUCED else cv2.IMREAD_GRAYSCALE
    grey = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), fraction)
    if grey is None:
        return None
    bits: NDArray[np.bool_] = imagehash.phash(Image.fromarray(grey), hash_size=HASH_SIDE).hash.ravel()
    return bits
