"""Instance segmentation: a box, a class and a mask for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.label_lines import check_polygon_columns, points_of, polygon_box


@dataclass(frozen=True)
class Segment:
    """Masks. Raw predictions are two arrays, of anchors and of prototypes (arXiv 1904.02689).

    The rows of the first, (n, rows, anchors), are centre x, centre y, width, height, a score for each class, and
    `coefficients` factors; the second is (n, coefficients, S / 4, S / 4). A mask is where the sum of factors times
    prototypes is above 0, inside the box.
    """

    name: ClassVar[str] = "segment"
    truth: ClassVar[str] = "segments"
    coefficients: int = 32

    # -- predictions

    # -- ground truth

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line that is no polygon."""
        check_polygon_columns(columns, "a mask is labelled by a polygon, and this line is a box: use a task of boxes")

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the clipped (4,) xyxy around the points of a polygon."""
        return polygon_box(values)

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        """Return `segments`, a polygon (P, 2) within the image a line, and its area."""
        polygons = [np.clip(points_of(row, size_wh), 0, size_wh) for row in rows]
        areas = np.array([cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons])
        return {"segments": tuple((polygon,) for polygon in polygons), "areas": areas}
