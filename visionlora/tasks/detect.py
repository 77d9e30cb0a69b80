"""Detection: a box and a class for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.rows import Rows, box_overlap
from visionlora.tasks.task import SLACK, check_fraction, clip_box
from visionlora.vision.drawing import draw_boxes

_BOX_COLUMNS = 5
_POLYGON_COLUMNS = 7  # class and three points
_BOX_NAMES = ("x centre", "y centre", "width", "height")


@dataclass(frozen=True)
class Detect(Rows):
    """Boxes. The rows of a raw prediction are centre x, centre y, width, height, and a score for each class.

    A label is `class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...`: of a polygon, the box around it counts, as in
    Ultralytics' `verify_image_label`.
    """

    name: ClassVar[str] = "detect"
    iou_type: ClassVar[str] = "bbox"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_boxes)

    # -- predictions

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the IoU of each anchor's box with the one at the same place."""
        return box_overlap(a[0][:4], b[0][:4])

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, NDArray[np.float64]]:
        """Return `bbox`, (N, 4) left, top, width, height, and its `area`, (N,), in pixels of the image."""
        boxes = objects.boxes_xyxy.astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        return {"bbox": np.concatenate([boxes[:, :2], sizes], axis=1), "area": sizes.prod(axis=1)}

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line that is no box, or no polygon in a file of polygons; a file holds one or the other."""
        polygons = most > _BOX_COLUMNS + 1
        if polygons and (columns < _POLYGON_COLUMNS or columns % 2 == 0):
            hint = "this file holds polygons, which cannot be mixed with boxes" if columns == _BOX_COLUMNS else ""
            hint = hint or "a polygon has at least 3 points of two columns each"
            raise ValueError(
                f"expected a class and an even number of at least 6 coordinates, got {columns} columns; {hint}"
            )
        if not polygons and columns != _BOX_COLUMNS:
            hint = "labels hold no confidence" if columns == _BOX_COLUMNS + 1 else "write one object a line"
            raise ValueError(f"expected 5 columns (class, x, y, width, height), got {columns}; {hint}")

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the clipped (4,) xyxy of x, y, width, height, or around a polygon's points."""
        return _box(values) if len(values) < _BOX_COLUMNS else _polygon_box(values)


DETECT = Detect()


def _box(values: Sequence[float]) -> NDArray[np.float64]:
    """Return x, y, width, height as a clipped (4,) xyxy, or raise ValueError."""
    for name, value in zip(_BOX_NAMES, values, strict=True):
        check_fraction(name, max(value, 0) if name in _BOX_NAMES[2:] else value)  # a negative size: see below
    for name, value in zip(_BOX_NAMES[2:], values[2:], strict=True):
        if value <= 0:
            raise ValueError(f"expected {name} above 0, got {value:g}; delete the line or draw the box again")
    x, y, width, height = values
    return clip_box(np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]))


def _polygon_box(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the clipped (4,) xyxy around a polygon's points, or raise ValueError."""
    for index, value in enumerate(values):
        check_fraction(f"{'xy'[index % 2]} of point {index // 2 + 1}", value)
    points = np.array(values, dtype=np.float32).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    for name, extent in zip(_BOX_NAMES[2:], high - low, strict=True):
        if not 0 < extent <= 1 + SLACK:
            raise ValueError(f"expected a polygon with {name} in (0, 1], got {extent:g}; draw it again")
    return clip_box(np.concatenate([low, high]).astype(np.float64))
