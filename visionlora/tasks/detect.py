"""Detection: a box and a class for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.label_lines import BOX_COLUMNS, box_of, check_box_columns, check_polygon_columns, polygon_box
from visionlora.tasks.rows import Rows, box_overlap
from visionlora.tasks.task import box_fields
from visionlora.vision.drawing import draw_boxes


@dataclass(frozen=True)
class Detect(Rows):
    """Boxes. The rows of a raw prediction are centre x, centre y, width, height, and a score for each class.

    A label is `class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...`: of a polygon, the box around it counts, as in
    Ultralytics' `verify_image_label`.
    """

    name: ClassVar[str] = "detect"
    iou_type: ClassVar[str] = "bbox"
    noun: ClassVar[str] = "boxes"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = ""
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_boxes)

    # -- predictions

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the IoU of each anchor's box with the one at the same place."""
        return box_overlap(a[0][:4], b[0][:4])

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return `bbox`, (N, 4) left, top, width, height, and its `area`, (N,), in pixels of the image."""
        return box_fields(objects)

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line that is no box, or no polygon in a file of polygons; a file holds one or the other."""
        if most <= BOX_COLUMNS + 1:
            check_box_columns(columns)
        else:
            check_polygon_columns(columns, "this file holds polygons, which cannot be mixed with boxes")

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the clipped (4,) xyxy of x, y, width, height, or around a polygon's points."""
        return box_of(values) if len(values) < BOX_COLUMNS else polygon_box(values)

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        """Return nothing: a box is all."""
        return {}


DETECT = Detect()
