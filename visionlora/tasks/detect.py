"""Detection: a box and a class for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks.label_lines import BOX_COLUMNS, box_of, check_box_columns, check_polygon_columns, polygon_box
from visionlora.tasks.task import best_candidates, box_fields
from visionlora.vision.boxes import nms as suppress  # `decode` has a flag of that name
from visionlora.vision.detections import (
    IOU_THRESHOLD,
    MAX_CANDIDATES,
    MAX_DETECTIONS,
    PREDICTION_CONFIDENCE,
    Detections,
    check_thresholds,
)
from visionlora.vision.drawing import draw_boxes
from visionlora.vision.preprocess import Placement


@dataclass(frozen=True)
class Detect:
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
    final_columns: ClassVar[int] = 6
    draw = staticmethod(draw_boxes)

    def rows(self, classes: int) -> int:
        """Return the rows of a raw prediction for so many classes."""
        return 4 + classes

    def split(self, prediction: Any) -> tuple[Any, Any]:
        """Return boxes (..., 4, anchors) and scores (..., classes, anchors): views, in NumPy and torch alike."""
        return prediction[..., :4, :], prediction[..., 4:, :]

    def split_final(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the parts of rows x1, y1, x2, y2, score, class."""
        return rows[..., :4], rows[..., 4], rows[..., 5]

    def rows_of(self, class_ids: Sequence[int]) -> list[int]:
        """Return which rows of a raw prediction make up one of these classes alone."""
        return [*range(4), *(4 + class_id for class_id in class_ids)]

    # -- predictions

    def decode(
        self,
        prediction: NDArray[np.float32],
        *,
        nms: bool,
        confidence: float | Sequence[float] = PREDICTION_CONFIDENCE,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        agnostic: bool = False,
        placement: Placement | None = None,
    ) -> Detections:
        """Turn the raw prediction for one image into detections, as `Task.decode` says.

        One anchor may give several classes, as in Ultralytics' validator.

        Example:
            >>> raw = np.array([[50, 50], [50, 51], [20, 20], [20, 20], [0.9, 0.8]], dtype=np.float32)
            >>> DETECT.decode(raw, nms=True).boxes_xyxy.tolist()
            [[40.0, 40.0, 60.0, 60.0]]
            >>> len(DETECT.decode(raw, nms=False))
            2
        """
        check_thresholds(confidence, iou_threshold, max_detections)
        if prediction.ndim != 2 or len(prediction) < self.rows(1):
            raise UsageError(f"decode: expected a prediction of shape (4 + classes, anchors), got {prediction.shape}")
        geometry, scores = self.split(prediction)
        scores, class_ids, anchors = best_candidates(scores, confidence, MAX_CANDIDATES if nms else max_detections)
        boxes = _corners(geometry[:, anchors])
        if nms:
            groups = np.zeros_like(class_ids) if agnostic else class_ids
            kept = suppress(boxes, scores, groups, iou_threshold=iou_threshold, max_detections=max_detections)
            boxes, scores, class_ids = boxes[kept], scores[kept], class_ids[kept]
        return Detections(boxes if placement is None else placement.to_original(boxes), scores, class_ids)

    def encode(
        self,
        boxes_xyxy: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        *,
        classes: int,
    ) -> NDArray[np.float32]:
        """Return the raw prediction (n, 4 + classes, N) of (n, N, 4) boxes with a score and a class each, (n, N)."""
        count, boxes, _ = boxes_xyxy.shape
        prediction = np.zeros((count, self.rows(classes), boxes), dtype=np.float32)
        low, high = boxes_xyxy[:, :, :2], boxes_xyxy[:, :, 2:]
        geometry, by_class = self.split(prediction)
        geometry[:, :2] = ((low + high) / 2).transpose(0, 2, 1)
        geometry[:, 2:] = (high - low).transpose(0, 2, 1)
        np.put_along_axis(by_class, class_ids[:, None, :], scores[:, None, :], axis=1)
        return prediction

    def overlap(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the IoU of each of (4, N) boxes with the one at the same place."""
        a, b = a.astype(np.float64), b.astype(np.float64)
        low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
        high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
        shared = np.prod(np.maximum(high - low, 0), axis=0)
        union = np.prod(np.maximum(a[2:], 0), axis=0) + np.prod(np.maximum(b[2:], 0), axis=0) - shared
        return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

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


def _corners(boxes_cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, N) centres and sizes -> (N, 4) corners."""
    centre, half = boxes_cxcywh[:2].T, boxes_cxcywh[2:].T / 2
    return np.concatenate([centre - half, centre + half], axis=1)
