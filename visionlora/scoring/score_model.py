"""One model on one data set: scores on the classes that both know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visionlora.data import LabelledImage
from visionlora.scoring.coco import Scores, coco_scores
from visionlora.scoring.detect_split import BATCH, find_objects
from visionlora.vision.inference import Network


@dataclass(frozen=True)
class ScoredModel:
    """Scores of one model, and the data set's classes that it knows (`scores` is None if it knows none)."""

    scores: Scores | None
    classes: tuple[str, ...]


def score_model(
    network: Network,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    batch: int = BATCH,
) -> ScoredModel:
    """Score a network on labelled images, on those of the data set's classes that it knows by name.

    Args:
        network: any Network.
        images: the ground truth, with the paths of the pictures.
        names: the class names of the data set.
        batch: images a call; changes the speed, not the scores.

    Raises:
        DataError: an image cannot be read or is not of its recorded size, or `names` holds a name twice.
    """
    found = find_objects(network, images, names, batch=batch)
    if not found.classes:
        return ScoredModel(scores=None, classes=())
    scores = coco_scores(found.detections, images, names, classes=found.classes, task=found.task)
    return ScoredModel(scores=scores, classes=found.classes)
