"""Which detections are right, at every IoU threshold: enough to score any choice of the images again, in no time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads the precision."""


@dataclass(frozen=True, eq=False)
class Matches:
    """One model's detections on one data set, each with what pycocotools said of it.

    Detections are ordered by class, and within a class best first; equal scores in the order of the images.

    Attributes:
        names: the classes that were scored, one a column.
        objects: (images, classes) int32, labelled objects that count.
        images: (N,) int32, the image of each detection.
        columns: (N,) int32, its class as an index into `names`.
        scores: (N,) float32.
        right: (N, 10) bool, whether it found an object at each of `IOU_THRESHOLDS`.
        counted: (N, 10) bool, whether it counts; one on a crowd does not.
    """

    names: tuple[str, ...]
    objects: NDArray[np.int32]
    images: NDArray[np.int32]
    columns: NDArray[np.int32]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    def of_class(self, column: int) -> slice:
        """Return where the detections of a class stand."""
        return slice(*np.searchsorted(self.columns, [column, column + 1]).tolist())


def average_precision(matches: Matches, weights: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
    """Return average precision when each image counts as often as its weight says, as pycocotools would.

    Only right detections carry the curve: precision is highest at one, and recall changes at one alone. So the curve is
    kept at them, for many weightings at once.

    Args:
        matches: of one model.
        weights: (W, images), how often each image counts in each of W weightings.

    Returns:
        (W, 10, classes) float64 in [0, 1]; NaN where a weighting holds no object of a class.
    """
    counts = np.asarray(weights, dtype=np.float64)
    result = np.full((len(counts), len(IOU_THRESHOLDS), len(matches.names)), np.nan)
    for column in range(len(matches.names)):
        rows = matches.of_class(column)
        total = counts @ matches.objects[:, column]  # (W,)
        each: NDArray[np.float64] = counts[:, matches.images[rows]]  # (W, n)
        seen = np.cumsum(each, axis=1)
        for threshold in range(len(IOU_THRESHOLDS)):
            counted = matches.counted[rows, threshold]
            before: NDArray[np.float64] = seen if counted.all() else np.cumsum(each * counted, axis=1)
            hits = np.flatnonzero(matches.right[rows, threshold])
            result[:, threshold, column] = _area(np.cumsum(each[:, hits], axis=1), before[:, hits], total)
    return result


def class_accuracy(
    matches: Matches, weights: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return top-1 and top-5 of each class in every draw, NaN without pictures, and how many pictures they are of.

    Args:
        matches: of `visionlora.scoring.classification`, right at the first threshold where a class is among the first
            five, at the others where it is the first.
        weights: (draws, images) of `draw_images`.

    Returns:
        (draws, classes) each.
    """
    total = (weights @ matches.objects).astype(np.float64)
    shares = []
    for threshold in (-1, 0):
        right = np.zeros(matches.objects.shape)
        right[matches.images, matches.columns] = matches.right[:, threshold]
        hits = weights @ right
        shares.append(np.divide(hits, total, out=np.full_like(hits, np.nan), where=total > 0))
    return shares[0], shares[1], total


def precision_at_recalls(matches: Matches, threshold: int = 0) -> NDArray[np.float64]:
    """Return the interpolated precision at `RECALLS` for each class, all images counting once.

    Args:
        matches: of one model.
        threshold: position in `IOU_THRESHOLDS`.

    Returns:
        (101, classes) float64; NaN for a class without objects.
    """
    curves = np.full((len(RECALLS), len(matches.names)), np.nan)
    for column in range(len(matches.names)):
        total = int(matches.objects[:, column].sum())
        if not total:
            continue
        rows = matches.of_class(column)
        hits = np.flatnonzero(matches.right[rows, threshold])
        found = np.arange(1, len(hits) + 1)
        precision = _envelope(found / np.cumsum(matches.counted[rows, threshold])[hits])
        place = np.searchsorted(found / total, RECALLS)  # the first point that reaches each recall
        curves[:, column] = np.append(precision, 0.0)[place]
    return curves


def _area(found: NDArray[np.float64], seen: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the interpolated precision over `RECALLS`.

    Args:
        found: (W, hits) objects found up to each right detection.
        seen: (W, hits) detections up to it.
        total: (W,) objects.
    """
    precision = _envelope(np.divide(found, seen, out=np.zeros_like(found), where=seen > 0))
    has_objects = total > 0
    recall = np.divide(found, total[:, None], out=np.zeros_like(found), where=has_objects[:, None])
    reached = np.searchsorted(RECALLS, recall, side="right")  # how many of the recalls a point has reached
    reached[recall == 0] = 0  # a detection of weight zero reaches none
    fresh = np.diff(reached, axis=1, prepend=0)
    return np.where(has_objects, (precision * fresh).sum(axis=1) / len(RECALLS), np.nan)


def _envelope(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at each point the best precision at it or after it, along the last axis."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
