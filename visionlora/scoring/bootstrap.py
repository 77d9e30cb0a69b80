"""How sure a score and a difference of scores are: a paired bootstrap over images.

The images are drawn again with replacement, a thousand times; every model is scored on the same draws, so what the
models have in common (an easy image, a rare class) cancels in the difference. Intervals hold the middle 95 % of the
draws (the percentile method of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionlora.scoring.matches import Matches, average_precision, class_accuracy

RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST_IMAGES = 2
"""With one image every draw is the same, and an interval would say that nothing is uncertain."""
_BLOCK = 50  # weightings at a time: what bounds the memory
_IOU_50 = 0


@dataclass(frozen=True)
class Interval:
    """Where the middle 95 % of the draws lie."""

    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """Whether zero lies in it."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Change:
    """A difference of two scores on the same images; the interval is None where it cannot be had."""

    difference: float
    interval: Interval | None

    @property
    def measurable(self) -> bool:
        """Whether the interval keeps clear of zero."""
        return self.interval is not None and not self.interval.covers_zero


@dataclass(frozen=True, eq=False)
class Draws:
    """Average precision of each class in every draw, NaN where a draw holds none of its objects.

    Attributes:
        names: the classes, one a column.
        ap50_95: (draws, classes).
        ap50: (draws, classes).
        pictures: (draws, classes), of a classifier: how many there are of each class; its means are over pictures.
    """

    names: tuple[str, ...]
    ap50_95: NDArray[np.float64]
    ap50: NDArray[np.float64]
    pictures: NDArray[np.float64] | None = None

    def mean(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (draws,) means of `ap50_95` or `ap50`; NaN where a draw has no object."""
        if self.pictures is None:
            return mean_over_classes(samples)
        total = self.pictures.sum(axis=1)
        right = np.nansum(samples * self.pictures, axis=1)
        return np.divide(right, total, out=np.full_like(right, np.nan), where=total > 0)

    def over(self, classes: Collection[str]) -> Draws:
        """Return the named classes alone."""
        wanted = set(classes)
        columns = [index for index, name in enumerate(self.names) if name in wanted]
        names = tuple(self.names[index] for index in columns)
        pictures = None if self.pictures is None else self.pictures[:, columns]
        return Draws(names, self.ap50_95[:, columns], self.ap50[:, columns], pictures)


def draw_images(images: int, *, draws: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Return how often each image comes in each draw: (draws, images), every row adding up to `images`."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)


def score_draws(matches: Matches, weights: NDArray[np.int64], *, pooled: bool = False) -> Draws:
    """Score every draw.

    Args:
        matches: of one model.
        weights: (draws, images) of `draw_images`; models whose scores are compared must share it.
        pooled: whether the matches are a classifier's.
    """
    if pooled:
        return Draws(matches.names, *class_accuracy(matches, weights))
    blocks = [average_precision(matches, weights[i : i + _BLOCK]) for i in range(0, len(weights), _BLOCK)]
    precision = np.concatenate(blocks)  # (draws, 10, classes)
    return Draws(matches.names, precision.mean(axis=1), precision[:, _IOU_50])


def paired_draws(
    first: Matches,
    second: Matches,
    first_images: Sequence[str],
    second_images: Sequence[str],
    *,
    pooled: bool = False,
) -> tuple[Draws, Draws] | tuple[None, None]:
    """Score two models on the same draws of the same images, which each may have seen in an order of its own.

    Args:
        first: of one model.
        second: of the other.
        first_images: SHA-256 of each image, in the order of the first.
        second_images: the same in the order of the second.
        pooled: whether the matches are of classifiers.

    Returns:
        The scores of both; None where the images are not the same, or too few.
    """
    count = len(first_images)
    if count < FEWEST_IMAGES or sorted(first_images) != sorted(second_images):
        return None, None
    weights = draw_images(count)
    # The n-th of the sorted hashes is the same picture in both.
    here, there = (np.argsort(hashes, kind="stable") for hashes in (first_images, second_images))
    moved = np.empty_like(weights)
    moved[:, there] = weights[:, here]
    return score_draws(first, weights, pooled=pooled), score_draws(second, moved, pooled=pooled)


def interval_of(samples: NDArray[np.float64]) -> Interval | None:
    """Return the middle 95 % of samples, or None where there is none; NaN is left out."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(settled(low), settled(high))


def settled(value: float) -> float:
    """Return a difference without the noise of summing in another order, which would make equal scores differ."""
    return round(float(value), 12) + 0.0  # no negative zero


def mean_over_classes(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (draws,) means over the classes that have objects in a draw; NaN where none has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "mean of empty slice": NaN is what is meant
        return np.nanmean(samples, axis=1)
