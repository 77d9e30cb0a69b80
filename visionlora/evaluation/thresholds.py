"""Score thresholds that make one model find as much, or be right as often, as another does at its own threshold.

Rounding to int8 moves scores, so a threshold that was chosen on a float model lets through more or less on its int8
form. Here a threshold a class is fitted on labelled images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visionlora.detections import EVALUATION_CONFIDENCE
from visionlora.evaluation.matches import Matches

Keep = Literal["recall", "precision"]
FOLDS = 5
_DIGITS = 6


@dataclass(frozen=True)
class Counts:
    """What a model finds above its thresholds, an object being found from IoU 0.50 on."""

    found: int
    misses: int
    false_alarms: int


@dataclass(frozen=True)
class Refit:
    """Thresholds fitted for one model to do as another does, and what that changes.

    Attributes:
        keep: what is kept of the reference: its recall, or its precision.
        confidence: the reference's threshold, the same for all classes.
        names: the classes.
        thresholds: one a class, fitted on all images.
        reference: counts of the reference at `confidence`.
        unfitted: counts of the model at `confidence`.
        fitted: counts of the model at fitted thresholds. Each image is counted at thresholds that were fitted on
            other images, so these are not flattered by the fit.
        unreachable: the classes of which the model does not keep what it should at any threshold.
    """

    keep: Keep
    confidence: float
    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    reference: Counts
    unfitted: Counts
    fitted: Counts
    unreachable: tuple[str, ...]

    @property
    def saved(self) -> int:
        """Objects that the model finds at fitted thresholds and misses at the reference's; negative if it loses."""
        return self.unfitted.misses - self.fitted.misses


def refit_thresholds(reference: Matches, model: Matches, *, confidence: float, keep: Keep, seed: int = 0) -> Refit:
    """Fit a threshold a class, and count on images that took no part in the fit what it changes.

    Recall: the highest threshold at which the model finds as many objects of the class as the reference. Precision: the
    lowest at which as large a share of its detections is right. A class of which the reference finds nothing keeps the
    reference's threshold.

    Args:
        reference: what the reference found.
        model: what the model found on the same images, of the same classes.
        confidence: the reference's threshold; higher scores count.
        keep: what to keep.
        seed: of the split into folds.
    """
    images = len(reference.objects)
    everything = np.ones(images, dtype=bool)
    folds = np.random.default_rng(seed).permutation(images) % FOLDS
    same = np.full(len(model.names), confidence)
    fitted = Counts(0, 0, 0)
    for fold in range(FOLDS):
        thresholds, _ = _fit(reference, model, folds != fold, confidence, keep)
        fitted = _plus(fitted, _count(model, folds == fold, thresholds))
    thresholds, reached = _fit(reference, model, everything, confidence, keep)
    return Refit(
        keep=keep,
        confidence=confidence,
        names=model.names,
        thresholds=tuple(thresholds.tolist()),
        reference=_count(reference, everything, same),
        unfitted=_count(model, everything, same),
        fitted=fitted,
        unreachable=tuple(name for name, there in zip(model.names, reached, strict=True) if not there),
    )


def _fit(
    reference: Matches, model: Matches, images: NDArray[np.bool_], confidence: float, keep: Keep
) -> tuple[NDArray[np.float64], list[bool]]:
    """Return the thresholds of all classes, and whether each keeps what it should."""
    fit = _for_recall if keep == "recall" else _for_precision
    pairs = [
        fit(*_of_class(reference, column, images), *_of_class(model, column, images), confidence)
        for column in range(len(model.names))
    ]
    return np.array([round(threshold, _DIGITS) for threshold, _ in pairs]), [reached for _, reached in pairs]


def _for_recall(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    own_scores: NDArray[np.float64],
    own_right: NDArray[np.bool_],
    confidence: float,
) -> tuple[float, bool]:
    """Let through as many right detections as the reference does; both are sorted, best first."""
    wanted = int(right[scores > confidence].sum())
    hits = own_scores[own_right]
    if not wanted:
        return confidence, True
    if len(hits) < wanted:
        return EVALUATION_CONFIDENCE, False  # all that it finds at any threshold
    below = hits[wanted] if wanted < len(hits) else EVALUATION_CONFIDENCE
    return _between(hits[wanted - 1], below), True


def _for_precision(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    own_scores: NDArray[np.float64],
    own_right: NDArray[np.bool_],
    confidence: float,
) -> tuple[float, bool]:
    """Let through as much as possible while as large a share is right as of the reference's."""
    seen = scores > confidence
    if not right[seen].any() or not len(own_scores):
        return confidence, not right[seen].any()
    wanted = float(right[seen].mean())
    precision = np.cumsum(own_right) / np.arange(1, len(own_right) + 1)
    last = np.append(own_scores[1:] < own_scores[:-1], True)  # equal scores go together
    enough = np.flatnonzero(last & (precision >= wanted))
    if not len(enough):
        best = int(np.argmax(np.where(last, precision, -1)))
        return _under(own_scores, best), False
    return _under(own_scores, int(enough[-1])), True


def _under(scores: NDArray[np.float64], index: int) -> float:
    """Return a threshold between a detection's score and the next."""
    return _between(scores[index], scores[index + 1] if index + 1 < len(scores) else EVALUATION_CONFIDENCE)


def _between(above: float, below: float) -> float:
    return float((above + below) / 2)


def _of_class(
    matches: Matches, column: int, images: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores, best first, of a class's detections on some images, and which of them are right at IoU 0.50."""
    rows = matches.of_class(column)
    kept = images[matches.images[rows]] & matches.counted[rows, 0]
    return matches.scores[rows][kept].astype(np.float64), matches.right[rows, 0][kept]


def _count(matches: Matches, images: NDArray[np.bool_], thresholds: NDArray[np.float64]) -> Counts:
    """Count on some images at a threshold a class."""
    found, alarms = 0, 0
    for column, threshold in enumerate(thresholds):
        scores, right = _of_class(matches, column, images)
        hits = int(right[scores > threshold].sum())
        found += hits
        alarms += int((scores > threshold).sum()) - hits
    return Counts(found, int(matches.objects[images].sum()) - found, alarms)


def _plus(a: Counts, b: Counts) -> Counts:
    return Counts(a.found + b.found, a.misses + b.misses, a.false_alarms + b.false_alarms)
