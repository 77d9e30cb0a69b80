"""From the values that an activation takes to the 256 levels that stand for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visionlora.errors import QuantizationError
from visionlora.int8.histogram import Histogram
from visionlora.int8.scheme import METHODS

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]

LEVELS = 256
OUTLIERS = 1e-5
"""Share of an activation's lowest, and of its highest, values that no range has to cover."""
_LEAST_WIDTH = 256 * float(np.finfo(np.float32).tiny)  # below, the scale would be no normal float32


@dataclass(frozen=True)
class ActivationRange:
    """The interval of real numbers that evenly spaced levels cover: 256 in uint8, or 255 in int8 around zero.

    Attributes:
        low: lowest value, at most 0: zero must be a level, because padding is exactly zero.
        high: highest value, at least 0.
        symmetric: the levels are int8 from -127 to 127 and the zero point is 0; `low` is `-high`.

    Raises:
        QuantizationError: the bounds are not finite, zero is not between them, or not in the middle where it should.

    Example:
        >>> activations = ActivationRange(-1.0, 1.55)
        >>> round(float(activations.scale), 6), int(activations.zero_point)
        (0.01, 100)
        >>> activations.quantize([-2.0, 0.0, 0.5]).tolist()
        [0, 100, 150]
    """

    low: float
    high: float
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= 0 <= self.high):
            raise QuantizationError(
                f"activation range: expected finite bounds around zero, got [{self.low}, {self.high}]"
            )
        if self.symmetric and self.low != -self.high:
            raise QuantizationError(f"activation range: expected symmetric bounds, got [{self.low}, {self.high}]")

    @property
    def scale(self) -> np.float32:
        """Distance between two levels; 1 for an activation that is always zero."""
        width = self.high - self.low
        steps = LEVELS - 2 if self.symmetric else LEVELS - 1
        return np.float32(width / steps) if width > _LEAST_WIDTH else np.float32(1)

    @property
    def zero_point(self) -> np.uint8 | np.int8:
        """The level that stands for zero."""
        return np.int8(0) if self.symmetric else np.uint8(round(min(-self.low / float(self.scale), LEVELS - 1)))

    def quantize(self, values: ArrayLike) -> NDArray[np.uint8 | np.int8]:
        """Return the level next to each value, as ONNX's QuantizeLinear does."""
        zero = self.zero_point
        limits = np.iinfo(zero.dtype)
        levels = np.rint(np.asarray(values, dtype=np.float32) / self.scale) + np.float32(zero)
        return np.clip(levels, limits.min, limits.max).astype(zero.dtype)

    def dequantize(self, levels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the values that levels stand for, as ONNX's DequantizeLinear does."""
        return (levels.astype(np.float32) - np.float32(self.zero_point)) * self.scale

    def levels(self) -> NDArray[np.float32]:
        """Return the (256,) values that the levels stand for, ascending."""
        limits = np.iinfo(self.zero_point.dtype)
        return self.dequantize(np.arange(limits.min, limits.max + 1))

    def made(self, *, symmetric: bool) -> ActivationRange:
        """Return this range, or the symmetric one that covers it."""
        if not symmetric:
            return self
        largest = max(-self.low, self.high)
        return ActivationRange(-largest, largest, symmetric=True)


UNIT_RANGE = ActivationRange(0.0, 1.0)
"""Pixels, sigmoids and softmaxes: they are in [0, 1] whatever the image shows."""
SCORE_LOGIT_RANGE = ActivationRange(-8.0, 5.0)
"""What a score is the sigmoid of, for scores from 0.0003 to 0.993.

It is not measured: the highest score of a few images is not the highest that will come, and a score below
`EVALUATION_CONFIDENCE` is no detection, so the many logits far below cost no level.
"""


def silu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return x * sigmoid(x) (arXiv 1702.03118, eq. 5)."""
    return (values * 0.5 * (1 + np.tanh(0.5 * values))).astype(np.float32)


def observed_range(histogram: Histogram) -> ActivationRange:
    """Return the range of all values, outliers included."""
    values, _ = histogram.points()
    return ActivationRange(min(float(values[0]), 0.0), max(float(values[-1]), 0.0))


def choose_range(
    histogram: Histogram, *, after: Function | None = None, method: str = METHODS[0], symmetric: bool = False
) -> ActivationRange:
    """Return the range that loses least, in the sense of a method.

    `activation` sums the cubes of the absolute errors behind the activation function: between MinMax and the mean
    squared error, which cuts off peaks that detections depend on. `mse` sums the squares of the errors of the values
    themselves. In both, and in `percentile`, one value in `1 / OUTLIERS` at each end does not count.

    Args:
        histogram: the values, at least one.
        after: the activation function; None counts the error of the values themselves.
        method: one of `METHODS`.
        symmetric: whether the levels are int8 around zero.
    """
    if method == "minmax":
        return observed_range(histogram).made(symmetric=symmetric)
    values, counts = _without_outliers(histogram)
    low, high = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
    if method == "percentile":
        return ActivationRange(low, high).made(symmetric=symmetric)
    after = after if method == "activation" else None
    power = 3 if method == "activation" else 2
    wanted = values if after is None else after(values)

    def loss(low: float, high: float) -> float:
        candidate = ActivationRange(low, high, symmetric=symmetric)
        got = candidate.dequantize(candidate.quantize(values))
        error = np.abs((got if after is None else after(got)) - wanted, dtype=np.float64)
        # Not a matrix product: its threads would cost far more than the arithmetic.
        return float(np.sum(error**power * counts))

    if symmetric:
        largest = max(-low, high)
        end = largest * min(_powers_of_two(-16, 0.25, 0.0625), key=lambda f: loss(-largest * f, largest * f))
        return ActivationRange(-end, end, symmetric=True)
    # Both ends together first: with a long tail at each end, moving one of them alone changes little.
    shrink = min(_powers_of_two(-16, 0, 0.25), key=lambda factor: loss(low * factor, high * factor))
    low, high = low * shrink, high * shrink
    for step in (0.25, 0.25, 0.05, 0.05):
        factors = _powers_of_two(-12 * step, 4 * step, step)
        high = min((high * factor for factor in factors), key=lambda end: loss(low, end))
        low = min((low * factor for factor in [0.0, *factors]), key=lambda end: loss(end, high))
    return ActivationRange(low, high)


def _without_outliers(histogram: Histogram) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values and how often they were counted, up to the share of outliers at each end."""
    values, counts = histogram.points()
    upto = np.cumsum(counts)
    kept = (upto > OUTLIERS * upto[-1]) & (upto - counts < (1 - OUTLIERS) * upto[-1])
    return values[kept], counts[kept].astype(np.float64)


def _powers_of_two(first: float, last: float, step: float) -> list[float]:
    return [2.0 ** (first + index * step) for index in range(round((last - first) / step) + 1)]
