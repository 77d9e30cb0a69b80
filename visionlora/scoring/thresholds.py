"""Score thresholds that make one model find as much, or be right as often, as another does at its own threshold.

Rounding to int8 moves scores, so a threshold that was chosen on a float model lets through more or less on its int8
form. Here a threshold a class is fitted on labelled images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visionlora.scoring.matches import Matches

Keep = Literal["recall", "precision"]
FOLDS = 5
_FURTHEST = 0.5
"""A threshold moves at most half the way to 0 or to 1: what needs more is not the rounding, and would let anything in
or nothing."""
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
        unreachable: the classes of which the model does not keep what it should, at any threshold within half the way
            from `confidence` to 0 and to 1. They have the nearest of these.
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
    lowest at which as large a share of its detections is right. The reference's threshold stays
    where it keeps exactly that, and for a class of which the reference finds nothing.

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
    lowest, highest = confidence * _FURTHEST, 1 - (1 - confidence) * _FURTHEST
    thresholds, reached = [], []
    for column in range(len(model.names)):
        scores, right = _of_class(reference, column, images)
        own_scores, own_right = _of_class(model, column, images)
        seen, own_seen = right[scores > confidence], own_right[own_scores > confidence]
        if not seen.any() or _kept(keep, seen, own_seen):
            thresholds.append(confidence)
            reached.append(True)
            continue
        wanted, enough = fit(seen, own_scores, own_right)
        thresholds.append(round(min(max(wanted, lowest), highest), _DIGITS))
        reached.append(enough and lowest <= wanted <= highest)
    return np.array(thresholds), reached


def _kept(keep: Keep, seen: NDArray[np.bool_], own_seen: NDArray[np.bool_]) -> bool:
    """Whether the reference's threshold keeps exactly what it should."""
    if keep == "recall":
        return int(own_seen.sum()) == int(seen.sum())
    return bool(len(own_seen)) and float(own_seen.mean()) == float(seen.mean())


def _for_recall(seen: NDArray[np.bool_], scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, bool]:
    """Return the threshold that lets through as many right detections, and whether there is one.

    Args:
        seen: whether each detection above the reference's threshold is right.
        scores: of the model's detections, best first.
        right: whether each is right.
    """
    wanted, hits = int(seen.sum()), scores[right]
    if len(hits) < wanted:
        return 0.0, False
    below = hits[wanted] if wanted < len(hits) else 0.0
    return float((hits[wanted - 1] + below) / 2), True


def _for_precision(
    seen: NDArray[np.bool_], scores: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[float, bool]:
    """Return the lowest threshold at which as large a share is right, and whether there is one; as `_for_recall`."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # equal scores go together
    enough = np.flatnonzero(last & (precision >= seen.mean()))
    if not len(enough):
        return 1.0, False
    index = int(enough[-1])
    below = scores[index + 1] if index + 1 < len(scores) else 0.0
    return float((scores[index] + below) / 2), True


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
