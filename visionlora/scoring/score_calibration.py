"""Whether a score means what it says: of the detections that score 0.8, are 80 % right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visionlora.scoring.matches import Matches

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Detections whose scores lie in (low, high]; the means are None where there is none."""

    low: float
    high: float
    detections: int
    mean_score: float | None
    precision: float | None
    """Share that is right at IoU 0.50."""


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error of the detections above the threshold (Küppers et al. 2020, arXiv 2004.13546)."""

    error: float | None
    """Mean distance of score and precision over the bins, weighted by their detections; None without detections."""
    bins: tuple[CalibrationBin, ...]


def calibration(matches: Matches, *, confidence: float) -> Calibration:
    """Compare scores with the share of right detections, in ten bins of equal width.

    Args:
        matches: of one model.
        confidence: only higher scores count.

    Example:
        >>> zeros, right = np.zeros(2, dtype=int), np.ones((2, 10), dtype=bool)
        >>> sure = Matches(("a",), np.array([[2]]), zeros, zeros, np.array([0.75, 0.85]), right, right)
        >>> round(calibration(sure, confidence=0.25).error, 3)
        0.2
    """
    chosen = matches.counted[:, 0] & (matches.scores > confidence)
    scores, right = matches.scores[chosen].astype(np.float64), matches.right[chosen, 0]
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, BINS - 1)
    bins = []
    for index in range(BINS):
        inside = place == index
        count = int(inside.sum())
        bins.append(
            CalibrationBin(
                low=round(float(edges[index]), 3),
                high=round(float(edges[index + 1]), 3),
                detections=count,
                mean_score=float(scores[inside].mean()) if count else None,
                precision=float(right[inside].mean()) if count else None,
            )
        )
    gaps = [
        bin_.detections * abs(bin_.mean_score - bin_.precision)
        for bin_ in bins
        if bin_.mean_score is not None and bin_.precision is not None
    ]
    return Calibration(sum(gaps) / len(scores) if len(scores) else None, tuple(bins))
