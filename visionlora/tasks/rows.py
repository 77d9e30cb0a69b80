"""The rows of a raw prediction as Ultralytics lays them out: a box, a score for each class, and what a task adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks.task import OfBoxes, Task, best_candidates
from visionlora.vision.boxes import nms as suppress  # `decode` has a flag of that name
from visionlora.vision.detections import (
    IOU_THRESHOLD,
    MAX_CANDIDATES,
    MAX_DETECTIONS,
    PREDICTION_CONFIDENCE,
    Detections,
    check_thresholds,
)
from visionlora.vision.preprocess import Placement

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Rows(OfBoxes):
    """What tasks share whose first output has the rows centre x, centre y, width, height, scores, extras.

    A final detection of theirs is x1, y1, x2, y2, score, class, extras; a task may have another box there.
    """

    outputs: ClassVar[int] = 1

    @property
    def extras(self) -> int:
        """How many rows lie behind the scores."""
        return 0

    @property
    def final_columns(self) -> int:
        """How many numbers a final detection has."""
        return 6 + self.extras

    def settings(self) -> dict[str, int]:
        """Return the sizes that a file states beside the task's name; empty where there are none."""
        return asdict(cast("DataclassInstance", self))

    def rows(self, classes: int) -> int:
        """Return the rows of a raw prediction for so many classes."""
        return 4 + classes + self.extras

    def split(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return geometry (..., 4 + extras, anchors) and scores (..., classes, anchors), in NumPy and torch alike.

        Views, but for the geometry of a task with extras.
        """
        first = outputs[0]
        if not self.extras:
            return first[..., :4, :], first[..., 4:, :]
        behind = first.shape[-2] - self.extras
        return first[..., [*range(4), *range(behind, first.shape[-2])], :], first[..., 4:behind, :]

    def split_final(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return geometry (..., 4 + extras), scores and class ids of final rows."""
        return np.delete(rows, (4, 5), axis=-1) if self.extras else rows[..., :4], rows[..., 4], rows[..., 5]

    def rows_of(self, class_ids: Sequence[int], *, classes: int) -> list[int]:
        """Return which rows of `classes` classes make up a raw prediction of these classes alone."""
        extras = range(4 + classes, self.rows(classes))
        return [*range(4), *(4 + class_id for class_id in class_ids), *extras]

    def encode(
        self,
        geometry: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        *,
        classes: int,
    ) -> NDArray[np.float32]:
        """Return the first output (n, rows, N) whose anchors are these final detections, as `Task.encode` says."""
        count, boxes, _ = geometry.shape
        prediction = np.zeros((count, self.rows(classes), boxes), dtype=np.float32)
        prediction[:, :4] = self._centred(geometry[..., :4]).transpose(0, 2, 1)
        prediction[:, 4 + classes :] = geometry[..., 4:].transpose(0, 2, 1)
        np.put_along_axis(prediction[:, 4 : 4 + classes], class_ids[:, None, :], scores[:, None, :], axis=1)
        return prediction

    def _centred(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 4) boxes of final detections -> centres and sizes."""
        return centred(boxes)

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
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
            >>> from visionlora.tasks import DETECT
            >>> raw = np.array([[50, 50], [50, 51], [20, 20], [20, 20], [0.9, 0.8]], dtype=np.float32)
            >>> DETECT.decode([raw], nms=True).boxes_xyxy.tolist()
            [[40.0, 40.0, 60.0, 60.0]]
            >>> len(DETECT.decode([raw], nms=False))
            2
        """
        check_thresholds(confidence, iou_threshold, max_detections)
        least = self.rows(1)
        if len(outputs) != self.outputs or outputs[0].ndim != 2 or len(outputs[0]) < least:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise UsageError(
                f"decode: expected {self.outputs} output(s), the first of shape (rows, anchors) with at least {least} "
                f"rows, got {shapes}"
            )
        first = outputs[0]
        scores = first[4 : len(first) - self.extras]
        scores, class_ids, anchors = best_candidates(scores, confidence, MAX_CANDIDATES if nms else max_detections)
        boxes = self._boxes(first, anchors)
        if nms:
            groups = np.zeros_like(class_ids) if agnostic else class_ids
            kept = self._suppress(boxes, scores, groups, iou_threshold=iou_threshold, max_detections=max_detections)
            boxes, scores, class_ids, anchors = boxes[kept], scores[kept], class_ids[kept], anchors[kept]
        return self._found(outputs, anchors, boxes, scores, class_ids, placement)

    _suppress: ClassVar[Callable[..., NDArray[np.int64]]] = staticmethod(suppress)

    def _boxes(self, first: NDArray[np.float32], anchors: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return what is suppressed by its overlap: boxes (N, 4) xyxy in pixels of the input."""
        return corners(first[:4, anchors])

    def _found(
        self,
        outputs: Sequence[NDArray[np.float32]],
        anchors: NDArray[np.intp],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        placement: Placement | None,
    ) -> Detections:
        """Return the detections of these anchors, whose boxes `_boxes` gave."""
        return Detections(boxes if placement is None else placement.to_original(boxes), scores, class_ids)

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        """Return centre x, centre y, width, height of each box as fractions of the image."""
        return centred(found.boxes_xyxy.astype(np.float64) / (size_wh * 2)).tolist()


def centred(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the centres and sizes (..., 4) of corners (..., 4)."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def corners(boxes_cxcywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the corners (N, 4) of centres and sizes (4, N)."""
    centre, half = boxes_cxcywh[:2].T, boxes_cxcywh[2:].T / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def box_overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the IoU of each of (4, N) boxes, centres and sizes, with the one at the same place."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = np.prod(np.maximum(high - low, 0), axis=0)
    union = np.prod(np.maximum(a[2:], 0), axis=0) + np.prod(np.maximum(b[2:], 0), axis=0) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def check_count(name: str, value: object) -> None:
    """Refuse a size of a task that counts nothing.

    Raises:
        UsageError: it is no whole number from 1 to 9999.
    """
    if type(value) is not int or not 0 < value < 10_000:
        raise UsageError(f"{name}: expected a whole number above 0, got {value!r:.40}")


def rows_of_parts(task: Task, parts: Sequence[Sequence[str]], rule: str) -> list[list[int | None]]:
    """Return for each part of a joined output which of its rows each row of the whole is; None where it has none.

    The classes of the whole are those of the first part, then what the others add.

    Args:
        task: what all parts find; its raw predictions are one array of anchors.
        parts: the classes of each, the base's first.
        rule: who finds a class that several know by name: `both`, all of them; `base`, the first; `new`, the last.
    """
    names = tuple(dict.fromkeys(name for part in parts for name in part))
    knowing = {name: [number for number, part in enumerate(parts) if name in part] for name in names}
    chosen = {"both": slice(None), "base": slice(1), "new": slice(-1, None)}[rule]
    rows: list[list[int | None]] = []
    for number, part in enumerate(parts):
        own = task.rows_of(range(len(part)), classes=len(part))
        place, extras = {name: own[4 + index] for index, name in enumerate(part)}, own[4 + len(part) :]
        classes = [place[name] if number in knowing[name][chosen] else None for name in names]
        rows.append([*own[:4], *classes, *extras])
    return rows
