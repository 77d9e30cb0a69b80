"""Validation while training, under the ruler of `visionlora eval`.

Ultralytics' validator shows the network rectangles with a margin and interpolates precision in its own way; its numbers
are not those of the file that ships, and the best epoch by them is the best for another input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import distributed
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.metrics import DetMetrics

from visionlora.data import LabelledImage
from visionlora.detectors.job import Ruler
from visionlora.detectors.ultralytics.checkpoint import as_outputs
from visionlora.tasks import Task
from visionlora.vision.detections import EVALUATION_CONFIDENCE, IOU_THRESHOLD, MAX_DETECTIONS, Detections
from visionlora.vision.preprocess import Placement

_DECODERS = 4


class _Scores(DetMetrics):
    """Where Ultralytics' trainer and its loggers look for names and values of scores; epochs are chosen by the last."""

    values: Mapping[str, float] = {}

    @property
    def keys(self) -> list[str]:
        """The names."""
        return list(self.values)

    @property
    def results_dict(self) -> dict[str, float]:
        """Names and values, with the one that epochs are chosen by."""
        return {**self.values, "fitness": list(self.values.values())[-1]}


class RulerValidator(DetectionValidator):
    """Ultralytics' validator with the project's decoding, suppression and scores; the losses are Ultralytics'.

    It needs `begin` before it is called, and a loader over a `SquareDataset` of those images.
    """

    task: Task
    images: Sequence[LabelledImage] = ()
    classes: Sequence[str] = ()
    ruler: Ruler

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.metrics = _Scores()
        self.found: dict[int, Detections] = {}

    def begin(self, task: Task, images: Sequence[LabelledImage], classes: Sequence[str], ruler: Ruler) -> None:
        """Say what is validated, before the first call."""
        self.task, self.images, self.classes, self.ruler = task, images, classes, ruler
        self.metrics.values = dict.fromkeys(reversed(task.score_keys), 0.0)

    def init_metrics(self, model: torch.nn.Module) -> None:
        """Forget what was found before."""
        super().init_metrics(model)
        self.found = {}

    def get_desc(self) -> str:
        """Return the head of the line of scores."""
        return ("%22s" + "%11s" * 4) % ("Class", "Images", "Instances", *reversed(self.task.score_words[:2]))

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device; the loss of classifiers wants a class a picture."""
        batch = super().preprocess(batch)
        return batch if self.task.boxes else {**batch, "cls": batch["cls"].view(-1).long()}

    def postprocess(self, preds: Any) -> list[tuple[np.ndarray, ...]]:
        """Return the raw prediction of each picture, an array an output."""
        outputs = as_outputs(preds[0] if isinstance(preds, tuple | list) else preds)
        return list(zip(*(output.float().cpu().numpy() for output in outputs), strict=True))

    def update_metrics(self, preds: list[tuple[np.ndarray, ...]], batch: dict[str, Any]) -> None:
        """Note what was found in the pictures of a batch."""
        with ThreadPoolExecutor(_DECODERS) as pool:
            self.found.update(zip(batch["index"], pool.map(self._detections, preds, batch["placement"]), strict=True))

    def gather_stats(self) -> None:
        """Bring together what all processes found."""
        if RANK == -1:
            return
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.gather_object(self.found, gathered if RANK == 0 else None, dst=0)
        if RANK == 0:
            self.found = {index: one for found in gathered for index, one in found.items()}

    def get_stats(self) -> dict[str, float]:
        """Score what was found."""
        found = [self.found[index] for index in range(len(self.images))]
        scores = self.ruler(found, self.images, self.classes)
        first, second = self.task.score_keys
        self.metrics.values = {second: scores.map50 or 0.0, first: scores.map50_95 or 0.0}
        return self.metrics.results_dict

    def finalize_metrics(self) -> None:
        """Do nothing: there is no confusion matrix."""

    def print_results(self) -> None:
        """Log the scores under the head that `get_desc` wrote."""
        objects = sum(int((~image.is_crowd).sum()) for image in self.images)
        row = ("all", len(self.images), objects, *self.metrics.values.values())
        LOGGER.info(("%22s" + "%11i" * 2 + "%11.3g" * 2) % row)

    def _detections(self, prediction: tuple[np.ndarray, ...], placement: Placement) -> Detections:
        """Return what the raw prediction of one picture finds, in pixels of the picture."""
        return self.task.decode(
            prediction,
            nms=True,
            confidence=EVALUATION_CONFIDENCE,
            iou_threshold=IOU_THRESHOLD,
            max_detections=MAX_DETECTIONS,
            placement=placement,
        )
