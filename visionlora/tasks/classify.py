"""Classification: one class for the whole picture, and no box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.vision.classification import Classification, draw_classes
from visionlora.vision.detections import IOU_THRESHOLD, MAX_DETECTIONS, PREDICTION_CONFIDENCE, Detections
from visionlora.vision.preprocess import CENTER_CROP, Placement, center_crop_pixels


@dataclass(frozen=True)
class Classify:
    """A class for the whole picture. A raw prediction is (n, classes) probabilities and has no geometry.

    A label is the folder that a picture lies in; `LabelledImage` has it as one box around the picture. What is asked of
    a task for label lines, COCO and final detections does not come up, and is refused.
    """

    name: ClassVar[str] = "classify"
    iou_type: ClassVar[str] = "bbox"
    noun: ClassVar[str] = "classes"
    similarity: ClassVar[str] = "class"
    truth: ClassVar[str] = ""
    binned: ClassVar[int] = 0
    outputs: ClassVar[int] = 1
    final_columns: ClassVar[int] = 0
    boxes: ClassVar[bool] = False
    axes: ClassVar[int] = 2
    score_words: ClassVar[tuple[str, str, str]] = ("top-1", "top-5", "top-1")
    score_keys: ClassVar[tuple[str, str]] = ("metrics/accuracy_top1", "metrics/accuracy_top5")
    preprocessing: ClassVar[Mapping[str, Any]] = CENTER_CROP
    place = staticmethod(center_crop_pixels)
    draw = staticmethod(draw_classes)

    def settings(self) -> dict[str, int]:
        """Return nothing: there are no sizes."""
        return {}

    def rows(self, classes: int) -> int:
        """Return how many numbers a prediction has: one a class."""
        return classes

    def split(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return geometry (..., 0) and probabilities (..., classes), views in NumPy and torch alike."""
        return outputs[0][..., :0], outputs[0]

    def rows_of(self, class_ids: Sequence[int], *, classes: int) -> list[int]:
        """Return which numbers of a prediction are these classes'."""
        return list(class_ids)

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
    ) -> Classification:
        """Return all classes of one image, best first, equals by their ids; thresholds have no effect.

        Raises:
            UsageError: `outputs` are not of this shape.

        Example:
            >>> Classify().decode([np.array([0.1, 0.7, 0.2], dtype=np.float32)], nms=True).top5
            [1, 2, 0]
        """
        if len(outputs) != 1 or outputs[0].ndim != 1:
            raise UsageError(f"decode: expected one output (classes,), got {[output.shape for output in outputs]}")
        class_ids = np.argsort(-outputs[0], kind="stable")
        size_wh = (0, 0) if placement is None else placement.size_wh
        boxes = np.tile(np.array([0, 0, *size_wh], dtype=np.float32), (len(class_ids), 1))
        return Classification(boxes, outputs[0][class_ids], class_ids, painter=self.draw)

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return 1: a prediction is always at the same place, the whole picture."""
        return np.ones(1)

    def split_final(self, rows: NDArray[np.float32]) -> NoReturn:
        """Refuse: no file of classes suppresses."""
        raise UsageError(_NO_BOXES)

    def encode(
        self,
        geometry: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        *,
        classes: int,
    ) -> NoReturn:
        """Refuse: no file of classes suppresses."""
        raise UsageError(_NO_BOXES)

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> NoReturn:
        """Refuse: the class of a picture is its folder."""
        raise UsageError(_NO_BOXES)

    def coco_fields(self, objects: Any) -> NoReturn:
        """Refuse: COCO has boxes."""
        raise UsageError(_NO_BOXES)

    def check_columns(self, columns: int, most: int) -> NoReturn:
        """Refuse: the class of a picture is its folder."""
        raise UsageError(_NO_BOXES)

    def label_box(self, values: Sequence[float]) -> NoReturn:
        """Refuse: the class of a picture is its folder."""
        raise UsageError(_NO_BOXES)

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> NoReturn:
        """Refuse: the class of a picture is its folder."""
        raise UsageError(_NO_BOXES)


_NO_BOXES = "a classification has no boxes and no label lines; take a task of boxes"
