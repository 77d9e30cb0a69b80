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
from visionlora.tasks.rows import Rows
from visionlora.vision.detections import Detections
from visionlora.vision.drawing import draw_boxes
from visionlora.vision.preprocess import Placement
from visionlora.vision.rotated import probiou, regularized, rotated_nms, upright

_CORNER_COLUMNS = 9  # class and four points
_DEGREES = 1e-6


@dataclass(frozen=True)
class OrientedBoxes(Rows):
    """Rotated boxes.

    The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and the angle in
    radians. A final detection is centre x, centre y, width, height, score, class, angle.
    """

    name: ClassVar[str] = "obb"
    truth: ClassVar[str] = "obb"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_boxes)

    # -- predictions

    _suppress = staticmethod(rotated_nms)

    @property
    def extras(self) -> int:
        """How many rows lie behind the scores."""
        return 1

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the `probiou` of each anchor's box with the one at the same place."""
        one, other = (outputs[0][[0, 1, 2, 3, -1]].T for outputs in (a, b))
        return np.clip(probiou(one, other), 0, 1).astype(np.float64)

    def _centred(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return boxes

    def _boxes(self, first: NDArray[np.float32], anchors: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.concatenate([first[:4, anchors], first[-1:, anchors]]).T

    def _found(
        self,
        outputs: Sequence[NDArray[np.float32]],
        anchors: NDArray[np.intp],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        placement: Placement | None,
    ) -> Detections:
        obb = regularized(boxes)
        around = upright(obb)
        if placement is not None:
            around = placement.to_original(around)
            obb[:, :2] = placement.points_to_original(obb[:, :2], clip=False)
            obb[:, 2:4] /= np.float32(np.sqrt(np.prod(placement.scale_xy)))  # the two differ by rounding
        return Detections(around, scores, class_ids, painter=self.draw, obb=obb)

    # -- ground truth

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
