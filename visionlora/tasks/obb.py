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
from visionlora.tasks.task import box_fields
from visionlora.vision.detections import Detections
from visionlora.vision.painters import draw_rotated_boxes
from visionlora.vision.preprocess import Placement
from visionlora.vision.rotated import corners_of, probiou, regularized, rotated_nms, upright

_CORNER_COLUMNS = 9  # class and four points


@dataclass(frozen=True)
class OrientedBoxes(Rows):
    """Rotated boxes.

    The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and the angle in
    radians. A final detection is centre x, centre y, width, height, score, class, angle.
    """

    name: ClassVar[str] = "obb"
    iou_type: ClassVar[str] = "obb"
    noun: ClassVar[str] = "oriented boxes"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = "obb"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_rotated_boxes)

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

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        """Return the four corners of each box as fractions of the image, clipped to it."""
        assert found.obb is not None
        corners = np.clip(corners_of(found.obb).astype(np.float64) / size_wh, 0, 1)
        return corners.reshape(len(found), 8).tolist()

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
        obb = np.array([rectangle_around(points_of(row, size_wh)) for row in rows]).reshape(-1, 5)
        return {"obb": obb, "areas": obb[:, 2].astype(np.float64) * obb[:, 3]}


def rectangle_around(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the smallest rectangle (5,) around (P, 2) points: centre x, y, width, height, angle in [0, pi / 2).

    Example:
        >>> rectangle_around(np.array([[0, 0], [4, 0], [4, 2], [0, 2]])).tolist()
        [2.0, 1.0, 4.0, 2.0, 0.0]
    """
    centre, size, degrees = cv2.minAreaRect(points.astype(np.float32))
    return regularized([[*centre, *size, math.radians(degrees)]])[0]
