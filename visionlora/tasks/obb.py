"""Oriented boxes: a rotated box and a class for each object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.label_lines import BOX_COLUMNS, points_of, polygon_box
from visionlora.tasks.task import box_fields

_CORNER_COLUMNS = 9  # class and four points
_DEGREES = 1e-6


@dataclass(frozen=True)
class OrientedBoxes:
    """Rotated boxes. The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and the
    angle in radians.
    """

    name: ClassVar[str] = "obb"
    iou_type: ClassVar[str] = "obb"
    noun: ClassVar[str] = "oriented boxes"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = "obb"

    # -- predictions

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return `obb`, (N, 5), and its area, beside `bbox`."""
        obb = objects.obb.astype(np.float64)
        return {**box_fields(objects), "obb": obb, "area": obb[:, 2] * obb[:, 3]}

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line that is not a class and four corners."""
        if columns != _CORNER_COLUMNS:
            hint = "this line is a box: use a task of boxes" if columns == BOX_COLUMNS else "write four corners a line"
            raise ValueError(f"expected 9 columns (class, x1, y1, ... x4, y4), got {columns}; {hint}")

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the clipped (4,) xyxy around the four corners."""
        box = polygon_box(values)
        if cv2.contourArea(np.array(values, dtype=np.float32).reshape(-1, 2)) <= 0:
            raise ValueError("expected four corners around an area, got a line; draw it again")
        return box

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        """Return `obb`, (N, 5), the smallest rectangles around the corners, and their areas."""
        rectangles = [rectangle_around(points_of(row, size_wh)) for row in rows]
        obb = np.array(rectangles, dtype=np.float64).reshape(-1, 5)
        return {"obb": obb.astype(np.float32), "areas": obb[:, 2] * obb[:, 3]}


def rectangle_around(points: NDArray[np.floating]) -> tuple[float, float, float, float, float]:
    """Return the smallest rectangle around (P, 2) points: centre x, y, width, height, and the angle in [0, pi / 2).

    The width lies along the direction that the angle, in radians clockwise on the picture, says.

    Example:
        >>> rectangle_around(np.array([[0, 0], [4, 0], [4, 2], [0, 2]]))
        (2.0, 1.0, 4.0, 2.0, 0.0)
    """
    (x, y), (width, height), degrees = cv2.minAreaRect(points.astype(np.float32))
    turns, rest = divmod(degrees, 90)
    if rest > 90 - _DEGREES:  # a rounded 90 is a turn more
        turns, rest = turns + 1, 0.0
    if turns % 2:
        width, height = height, width
    return x, y, width, height, math.radians(rest)
