"""One model's detections judged: scores with intervals, counts at a threshold, and the differences between models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.scoring.bootstrap import Change, Draws, Interval, interval_of, score_draws, settled
from visionlora.scoring.classification import Mistake, classification_scores, confusion_of
from visionlora.scoring.coco import Scores, score_and_match
from visionlora.scoring.detect_split import SplitDetections
from visionlora.scoring.matches import Matches
from visionlora.scoring.operating import Confusion, OperatingPoint, Outcome, operating_point, outcome_of
from visionlora.scoring.score_calibration import Calibration, calibration

_WITH_BOXES = ("segm", "keypoints")
"""What is scored by upright boxes too; around an oriented box one says little."""


@dataclass(frozen=True)
class ClassChange:
    """How AP50-95 of one class differs from another model's."""

    name: str
    change: Change


@dataclass(frozen=True)
class Difference:
    """How a model's scores differ from another model's on the classes that both know: this one minus the other."""

    to: str
    """The other model's label."""
    classes: tuple[str, ...]
    map50_95: Change
    map50: Change
    per_class: tuple[ClassChange, ...]


@dataclass(frozen=True, eq=False)
class ModelScores:
    """Everything that is known of one model on one data set.

    Attributes:
        scores: with intervals where there are draws.
        matches: which detections are right.
        draws: the scores of every draw of images; None where the images are too few.
        outcomes: one an image, at the chosen threshold, on the classes that the model knows; none of a classifier.
        operating: the counts over all images; None of a classifier, as the next.
        calibration: of the detections above the threshold.
        boxes: the same detections scored by their boxes, with intervals, where the task finds more than boxes.
        confusion: of a classifier, the cells of its confusion matrix that are not zero; None of any other.
        mistakes: of a classifier, the most confident first.
    """

    scores: Scores
    matches: Matches
    draws: Draws | None
    outcomes: tuple[Outcome, ...]
    operating: OperatingPoint | None
    calibration: Calibration | None
    boxes: Scores | None = None
    confusion: tuple[Confusion, ...] | None = None
    mistakes: tuple[Mistake, ...] = ()


def judge(
    found: SplitDetections,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    weights: NDArray[np.int64] | None,
    confidence: float,
) -> ModelScores | None:
    """Judge what a model found, on the classes that it knows; None if it knows none.

    Args:
        found: what it found.
        images: the ground truth.
        names: the class names of the data set.
        weights: the draws of `draw_images`, the same for all models; None where the images are too few.
        confidence: the score threshold of the counts.
    """
    if not found.classes:
        return None
    if not found.task.boxes:
        return _judge_classes(found, images, names, weights=weights)
    scores, matches, draws = _scored(found, images, names, weights, boxes=False)
    known = [only_classes(image, names, found.classes) for image in images]
    outcomes = tuple(
        outcome_of(detections, image, confidence=confidence, task=found.task)
        for detections, image in zip(found.detections, known, strict=True)
    )
    return ModelScores(
        scores=scores,
        matches=matches,
        draws=draws,
        outcomes=outcomes,
        operating=operating_point(outcomes, known, names, matches, confidence=confidence),
        calibration=calibration(matches, confidence=confidence),
        boxes=_scored(found, images, names, weights, boxes=True)[0] if found.task.iou_type in _WITH_BOXES else None,
    )


def _judge_classes(
    found: SplitDetections, images: Sequence[LabelledImage], names: Sequence[str], *, weights: NDArray[np.int64] | None
) -> ModelScores:
    """Judge a classifier; there is nothing to operate: no threshold decides what is found."""
    scores, matches = classification_scores(found.detections, images, names, classes=found.classes)
    draws = None if weights is None else score_draws(matches, weights, pooled=True)
    confusion, mistakes = confusion_of(found.detections, images, names, classes=found.classes)
    return ModelScores(
        scores=scores if draws is None else with_intervals(scores, draws),
        matches=matches,
        draws=draws,
        outcomes=(),
        operating=None,
        calibration=None,
        confusion=confusion,
        mistakes=mistakes,
    )


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def _scored(
    found: SplitDetections,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    weights: NDArray[np.int64] | None,
    *,
    boxes: bool,
) -> tuple[Scores, Matches, Draws | None]:
    """Return scores with intervals, which detections are right, and the scores of every draw."""
    scores, matches = score_and_match(
        found.detections, images, names, classes=found.classes, task=found.task, boxes=boxes
    )
    draws = None if weights is None else score_draws(matches, weights)
    return scores if draws is None else with_intervals(scores, draws), matches, draws


def only_classes(image: LabelledImage, names: Sequence[str], classes: Collection[str]) -> LabelledImage:
    """Return an image with the objects of some classes alone."""
    if len(classes) == len(names):
        return image
    wanted = set(classes)
    kept = np.isin(image.class_ids, [index for index, name in enumerate(names) if name in wanted])
    return image.at(kept)


def with_intervals(scores: Scores, draws: Draws) -> Scores:
    """Return the scores with the 95 % intervals of their draws."""
    per_class = tuple(
        replace(score, interval=None if score.ap50_95 is None else interval_of(draws.ap50_95[:, column]))
        for column, score in enumerate(scores.per_class)
    )
    mean = None if scores.map50_95 is None else interval_of(draws.mean(draws.ap50_95))
    return replace(scores, per_class=per_class, interval=mean)


def difference(
    scores: Scores, other: Scores, *, draws: Draws | None, other_draws: Draws | None, to: str
) -> Difference | None:
    """Return how scores differ from another model's, on the classes that both have and that have objects.

    Args:
        scores: of the model.
        other: of the other, on the same images.
        draws: of the model.
        other_draws: of the other, from the same draws of images.
        to: the other's label.

    Returns:
        The difference, this model minus the other; None if they share no class with objects.
    """
    theirs = {score.name: score for score in other.per_class if score.ap50_95 is not None}
    pairs = [(own, theirs[own.name]) for own in scores.per_class if own.ap50_95 is not None and own.name in theirs]
    if not pairs:
        return None
    shared = [own.name for own, _ in pairs]
    mean, mean50 = None, None
    per_class: list[Interval | None] = [None] * len(pairs)
    if draws is not None and other_draws is not None:
        a, b = draws.over(shared), other_draws.over(shared)
        mean = interval_of(a.mean(a.ap50_95) - b.mean(b.ap50_95))
        mean50 = interval_of(a.mean(a.ap50) - b.mean(b.ap50))
        column_a, column_b = ({name: column for column, name in enumerate(part.names)} for part in (a, b))
        per_class = [interval_of(a.ap50_95[:, column_a[name]] - b.ap50_95[:, column_b[name]]) for name in shared]
    changes = [settled((own.ap50_95 or 0.0) - (its.ap50_95 or 0.0)) for own, its in pairs]
    counts = [own.objects if scores.pooled else 1 for own, _ in pairs]
    changes50 = [(own.ap50 or 0.0) - (its.ap50 or 0.0) for own, its in pairs]
    return Difference(
        to=to,
        classes=tuple(shared),
        map50_95=Change(settled(_mean(changes, counts)), mean),
        map50=Change(settled(_mean(changes50, counts)), mean50),
        per_class=tuple(map(ClassChange, shared, map(Change, changes, per_class))),
    )
