"""Instance segmentation: a box, a class and a mask for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.label_lines import check_polygon_columns, points_of, polygon_box
from visionlora.tasks.task import box_fields


@dataclass(frozen=True)
class Segment:
    """Masks. Raw predictions are two arrays, of anchors and of prototypes (arXiv 1904.02689).

    The rows of the first, (n, rows, anchors), are centre x, centre y, width, height, a score for each class, and
    `coefficients` factors; the second is (n, coefficients, S / 4, S / 4). A mask is where the sum of factors times
    prototypes is above 0, inside the box.
    """

    name: ClassVar[str] = "segment"
    iou_type: ClassVar[str] = "segm"
    noun: ClassVar[str] = "masks"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = "segments"
    coefficients: int = 32

    # -- predictions

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return `segmentation`, an RLE or flat polygons each, beside `bbox` and `area` of the box."""
        masks = getattr(objects, "masks", None)
        if masks is not None:
            return {**box_fields(objects), "segmentation": [masks.rle(index) for index in range(len(masks))]}
        return {**box_fields(objects), "segmentation": [coco_segmentation(one) for one in objects.segments or ()]}

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


def coco_segmentation(segment: Any) -> Any:
    """Return one of a `LabelledImage`'s segments as COCO writes it: an RLE as it is, polygons as flat lists."""
    return segment if isinstance(segment, dict) else [polygon.ravel().tolist() for polygon in segment]
