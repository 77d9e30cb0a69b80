"""Instance segmentation: a box, a class and a mask for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks.label_lines import check_polygon_columns, points_of, polygon_box
from visionlora.tasks.rows import Rows, box_overlap, check_count
from visionlora.tasks.task import box_fields
from visionlora.vision.detections import Detections
from visionlora.vision.masks import PrototypeMasks
from visionlora.vision.painters import draw_masks, mask_contours
from visionlora.vision.preprocess import Placement

PROTOTYPE_STRIDE = 4
"""Pixels of the input per pixel of a prototype, in the heads of Ultralytics."""


@dataclass(frozen=True)
class Segment(Rows):
    """Masks. Raw predictions are two arrays, of anchors and of prototypes (arXiv 1904.02689).

    The rows of the first, (n, rows, anchors), are centre x, centre y, width, height, a score for each class, and
    `coefficients` factors; the second is (n, coefficients, S / 4, S / 4). A mask is where the sum of factors times
    prototypes is above 0, inside the box.

    Raises:
        UsageError: `coefficients` is no number above 0.
    """

    name: ClassVar[str] = "segment"
    iou_type: ClassVar[str] = "segm"
    noun: ClassVar[str] = "masks"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = "segments"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    outputs: ClassVar[int] = 2
    draw = staticmethod(draw_masks)
    coefficients: int = 32

    def __post_init__(self) -> None:
        check_count("coefficients", self.coefficients)

    # -- predictions

    @property
    def extras(self) -> int:
        """How many rows lie behind the scores."""
        return self.coefficients

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the IoU of each anchor's box times the cosine between its sums of prototypes, which is 0 at least.

        The sums of all anchors are never made: the products of prototypes with each other say their lengths.
        """
        (one, other), factors = (a[1], b[1]), (a[0][-self.coefficients :], b[0][-self.coefficients :])
        flat = [prototypes.reshape(len(prototypes), -1).astype(np.float64) for prototypes in (one, other)]
        shared, *squares = (
            np.einsum("ca,cd,da->a", factors[i], flat[i] @ flat[j].T, factors[j], optimize=True)
            for i, j in ((0, 1), (0, 0), (1, 1))
        )
        length = np.sqrt(squares[0] * squares[1])
        cosine = np.divide(shared, length, out=np.zeros_like(shared), where=length > 0)
        return box_overlap(a[0][:4], b[0][:4]) * np.clip(cosine, 0, 1)

    def _found(
        self,
        outputs: Sequence[NDArray[np.float32]],
        anchors: NDArray[np.intp],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        placement: Placement | None,
    ) -> Detections:
        first, prototypes = outputs
        if prototypes.ndim != 3 or len(prototypes) != self.coefficients:
            raise UsageError(f"decode: expected prototypes ({self.coefficients}, S / 4, S / 4), got {prototypes.shape}")
        side = PROTOTYPE_STRIDE * prototypes.shape[2]
        placement = Placement((1.0, 1.0), (0, 0), (side, side)) if placement is None else placement
        boxes = placement.to_original(boxes)
        coefficients = first[-self.coefficients :, anchors].T
        masks = PrototypeMasks(coefficients, prototypes, boxes, placement, side)
        return Detections(boxes, scores, class_ids, painter=self.draw, masks=masks)

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        """Return the points of the largest outline of each mask as fractions of the image; none of an empty mask."""
        rows = []
        for index in range(len(found)):
            assert found.masks is not None
            outlines = [each for each in mask_contours(*found.masks.crop(index)) if len(each) > 2]
            largest = max(outlines, key=cv2.contourArea, default=np.empty((0, 2), dtype=np.float32))
            rows.append((largest.astype(np.float64) / size_wh).ravel().tolist())
        return rows

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return `segmentation`, an RLE or flat polygons each, beside `bbox` and `area` of the box."""
        if hasattr(objects, "segments"):
            segments = [coco_segmentation(segment) for segment in objects.segments]
        else:
            segments = [objects.masks.rle(index) for index in range(len(objects.masks))]
        return {**box_fields(objects), "segmentation": segments}

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
