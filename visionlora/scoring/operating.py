"""What a user meets at the chosen score threshold: misses, false alarms, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.scoring.matches import Matches
from visionlora.scoring.overlaps import judged_objects, overlap_of
from visionlora.tasks import Task
from visionlora.vision.detections import Detections

MATCHING_IOU = 0.5
"""A detection that overlaps an object of its class this much has found it."""
_NONE = -1


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one image.

    Attributes:
        detections: those above the threshold, best first; class ids index the data set's names.
        right: (N,) bool, whether each of them found an object of its class.
        taken_for: (N,) int64, the object that each lies on, of whatever class; -1 for none.
        found: (G,) bool, whether each object was found; true of what cannot be missed, as `judged_objects` says.
    """

    detections: Detections
    right: NDArray[np.bool_]
    taken_for: NDArray[np.int64]
    found: NDArray[np.bool_]

    @property
    def misses(self) -> int:
        """Objects that were not found."""
        return int((~self.found).sum())

    @property
    def false_alarms(self) -> int:
        """Detections that found nothing: on nothing, on an object of another class, or on one already found."""
        return int((~self.right).sum())


@dataclass(frozen=True)
class Confusion:
    """How many objects of a class were taken for another; None is the background."""

    truth: str | None
    """The class of the object; None: there was none, a false alarm."""
    found: str | None
    """The class of the detection; None: there was none, a miss."""
    count: int


@dataclass(frozen=True)
class OperatingPoint:
    """Counts over all images and classes at one score threshold, an object being found from IoU 0.50 on."""

    confidence: float
    """Detections with a higher score count."""
    precision: float | None
    """Share of the detections that are right; None if there is none."""
    recall: float | None
    """Share of the objects that were found; None if there is none."""
    f1: float | None
    """Harmonic mean of both, 2 TP / (2 TP + FP + FN)."""
    found: int
    misses: int
    false_alarms: int
    misses_per_1000_images: float
    false_alarms_per_1000_images: float
    images_with_misses: int
    images_with_false_alarms: int
    best_f1: float | None
    """The highest F1 of any threshold."""
    best_confidence: float | None
    """The threshold that gives it on these images."""
    confusion: tuple[Confusion, ...]
    """The cells of the confusion matrix that are not zero."""

    @property
    def objects(self) -> int:
        """The objects that could be found."""
        return self.found + self.misses


def outcome_of(detections: Detections, image: LabelledImage, *, confidence: float, task: Task) -> Outcome:
    """Say what became of an image: COCO's greedy matching at IoU 0.50, or OKS of keypoints, best detection first.

    Each detection takes the object of its class that it overlaps most of those left. Detections that are left over then
    take objects of other classes that are left, in the same way: those are confusions. A detection that found nothing
    of its class and lies by half or more in a crowd of it counts for nothing; nor does one on an object without a
    labelled keypoint, where keypoints are compared.

    Args:
        detections: class ids index the data set's names.
        image: the ground truth.
        confidence: only higher scores count.
        task: what is compared.
    """
    seen = detections.above(confidence).top(len(detections))
    overlap, share = overlap_of(task.iou_type, seen, image)  # (N, G)
    left_out = ~judged_objects(image, task.iou_type)
    same_class = seen.class_ids[:, None] == image.class_ids[None, :]
    in_crowd = ((share >= MATCHING_IOU) & same_class & image.is_crowd).any(axis=1)
    taken_for = _match(overlap, same_class, np.full(len(seen), _NONE), left_out)
    aside = _match(overlap, same_class & left_out, taken_for, image.is_crowd)  # on what has no labelled keypoint
    counted = (taken_for != _NONE) | (aside == _NONE) & ~in_crowd
    seen, overlap, same_class = seen.at(np.flatnonzero(counted)), overlap[counted], same_class[counted]
    taken_for = _match(overlap, ~same_class, taken_for[counted], left_out)
    right = np.zeros(len(seen), dtype=bool)
    on_object = taken_for != _NONE
    right[on_object] = same_class[np.flatnonzero(on_object), taken_for[on_object]]
    found = left_out
    found[taken_for[right]] = True
    return Outcome(seen, right, taken_for, found)


def operating_point(
    outcomes: Sequence[Outcome],
    images: Sequence[LabelledImage],
    names: Sequence[str],
    matches: Matches,
    *,
    confidence: float,
) -> OperatingPoint:
    """Count over all images what `outcome_of` says of each.

    Args:
        outcomes: one an image.
        images: the ground truth, objects of the scored classes alone.
        names: the class names of the data set.
        matches: of the same detections, for the best threshold.
        confidence: the threshold that made the outcomes.
    """
    hits = sum(int(outcome.right.sum()) for outcome in outcomes)
    misses, alarms = sum(outcome.misses for outcome in outcomes), sum(outcome.false_alarms for outcome in outcomes)
    best_f1, best_confidence = best_threshold(matches)
    return OperatingPoint(
        confidence=confidence,
        precision=_share(hits, hits + alarms),
        recall=_share(hits, hits + misses),
        f1=_share(2 * hits, 2 * hits + alarms + misses),
        found=hits,
        misses=misses,
        false_alarms=alarms,
        misses_per_1000_images=1000 * misses / len(images),
        false_alarms_per_1000_images=1000 * alarms / len(images),
        images_with_misses=sum(outcome.misses > 0 for outcome in outcomes),
        images_with_false_alarms=sum(outcome.false_alarms > 0 for outcome in outcomes),
        best_f1=best_f1,
        best_confidence=best_confidence,
        confusion=_confusion(outcomes, images, names),
    )


def best_threshold(matches: Matches) -> tuple[float | None, float | None]:
    """Return the highest F1 over all classes together at IoU 0.50, and the score threshold that gives it.

    The threshold lies between two scores, so that it separates them; (None, None) if there is no object.
    """
    total = int(matches.objects.sum())
    if not total:
        return None, None
    counted = matches.counted[:, 0]
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores = matches.scores[counted][order].astype(np.float64)
    hits = np.cumsum(matches.right[counted, 0][order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + total)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # equal scores go together
    f1[~last] = -1
    if not len(f1) or f1.max() <= 0:
        return 0.0, None
    best = int(np.argmax(f1))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float(f1[best]), float((scores[best] + below) / 2)


def _match(
    overlap: NDArray[np.floating], allowed: NDArray[np.bool_], taken_for: NDArray[np.int64], crowd: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Give each detection without an object the allowed one, of those left, that it overlaps most; best first.

    Args:
        overlap: (N, G) IoU.
        allowed: (N, G) bool.
        taken_for: (N,) the object of each detection so far, -1 for none; not changed.
        crowd: (G,) bool, what no detection can take.

    Returns:
        (N,) the object of each detection.
    """
    result = taken_for.copy()
    taken = crowd.copy()
    taken[taken_for[taken_for != _NONE]] = True
    for row in np.flatnonzero(taken_for == _NONE):
        candidates = np.where(allowed[row] & ~taken & (overlap[row] >= MATCHING_IOU), overlap[row], -1.0)
        if len(candidates) and candidates.max() >= 0:
            # The last of equals, as pycocotools takes it.
            result[row] = len(candidates) - 1 - int(np.argmax(candidates[::-1]))
            taken[result[row]] = True
    return result


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _confusion(
    outcomes: Sequence[Outcome], images: Sequence[LabelledImage], names: Sequence[str]
) -> tuple[Confusion, ...]:
    """Return the cells that are not zero, by class of the object and then of the detection, background last."""
    background = len(names)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for outcome, image in zip(outcomes, images, strict=True):
        truth = np.append(image.class_ids, background)[outcome.taken_for]  # -1 is the last: the background
        pairs.append(np.stack([truth, outcome.detections.class_ids], axis=1))
        left = ~outcome.found
        left[outcome.taken_for[outcome.taken_for != _NONE]] = False
        missed = image.class_ids[left]
        pairs.append(np.stack([missed, np.full_like(missed, background)], axis=1))
    cells, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    labels = [*names, None]
    return tuple(
        Confusion(labels[truth], labels[found], count)
        for (truth, found), count in zip(cells.tolist(), counts.tolist(), strict=True)
    )
