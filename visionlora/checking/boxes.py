"""What is doubtful about the boxes of a data set though its labels can be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visionlora.checking.findings import Finding
from visionlora.checking.pictures import Picture
from visionlora.data import shown

SIZE_EDGES = (8, 16, 32, 96)
"""Pixels of the input, below each of which boxes are counted by their shorter side."""
SMALL = SIZE_EDGES[0]
"""Pixels of the input: the stride of the finest grid of a YOLO detector; shorter sides lie between its points."""
_SAME = 0.9  # IoU of two boxes of one class that are one object
_OTHER = 0.98  # IoU of two boxes of two classes that are one object
_DEGENERATE = 2.0  # pixels of the picture
_MANY_SMALL = 0.05
_MOST_COMPARED = 2000  # boxes of a picture that are compared with each other


def box_findings(pictures: Sequence[Picture], imgsz: int) -> list[Finding]:
    """Return what is doubtful about boxes.

    Args:
        pictures: of all splits.
        imgsz: side of the input in pixels.
    """
    repeated, twice, classes, degenerate, spilled = [], [], [], [], []
    for picture in pictures:
        repeated += [f"{shown(picture.label)}:{line}" for line in picture.repeated]
        same, other = _overlapping(picture)
        twice += [picture.place(index) for index in same]
        classes += [picture.place(index) for index in other]
        spilled += [picture.place(index) for index in picture.spilled]
        sides = (picture.boxes_xyxy[:, 2:] - picture.boxes_xyxy[:, :2]).min(axis=1, initial=np.inf)
        degenerate += [picture.place(index) for index in np.flatnonzero(sides < _DEGENERATE).tolist()]
    told = (
        ("repeated line", repeated, "labels say again what an earlier one says: each counts once"),
        ("duplicate box", twice, f"boxes cover another one of their class (IoU above {_SAME}): one object twice?"),
        ("two classes", classes, f"boxes cover one of another class (IoU above {_OTHER}): which of them is it?"),
        ("degenerate box", degenerate, f"boxes have a side under {_DEGENERATE:g} pixels of the picture"),
        ("outside", spilled, "boxes leave the picture, and are clipped to it; coordinates lie in [0, 1]"),
    )
    count = sum(len(picture.class_ids) for picture in pictures)
    found = [
        Finding("warning", kind, f"{len(places)} of {count} {message}", tuple(dict.fromkeys(places)))
        for kind, places, message in told
        if places
    ]
    return found + _small(pictures, imgsz)


def short_sides(pictures: Sequence[Picture], imgsz: int) -> NDArray[np.float64]:
    """Return the shorter side of each box, (N,), in pixels of an input of `imgsz`."""
    sides = [
        (picture.boxes_xyxy[:, 2:] - picture.boxes_xyxy[:, :2]).min(axis=1, initial=np.inf)
        * (imgsz / max(picture.size_wh))
        for picture in pictures
        if picture.size_wh and len(picture.boxes_xyxy)
    ]
    return np.concatenate([np.zeros(0), *sides])


def _small(pictures: Sequence[Picture], imgsz: int) -> list[Finding]:
    sides = short_sides(pictures, imgsz)
    share = float((sides < SMALL).mean()) if len(sides) else 0.0
    if share < _MANY_SMALL:
        return []
    return [
        Finding(
            "warning",
            "small boxes",
            f"{100 * share:.0f} % of boxes are under {SMALL} px at {imgsz}: use {2 * imgsz} or tiles",
        )
    ]


def _overlapping(picture: Picture) -> tuple[list[int], list[int]]:
    """Return the boxes that cover an earlier one of their class, and of another class."""
    boxes = picture.boxes_xyxy[:_MOST_COMPARED].astype(np.float64)
    if len(boxes) < 2 or picture.rows:  # polygons and oriented boxes: the boxes around them may well cover each other
        return [], []
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    iou = shared / np.maximum(areas[:, None] + areas[None] - shared, 1e-12)
    ids = picture.class_ids[:_MOST_COMPARED]
    equal = ids[:, None] == ids[None]
    same, other = np.tril(equal & (iou > _SAME), -1), np.tril(~equal & (iou > _OTHER), -1)
    return np.flatnonzero(same.any(axis=1)).tolist(), np.flatnonzero(other.any(axis=1)).tolist()
