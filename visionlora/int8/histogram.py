"""Counting the values of an activation in one pass and bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import QuantizationError

_SMALLEST, _LARGEST = -24, 16  # exponents: what is below 2^-24 counts as 0, what is above 2^16 as 2^16
_MANTISSA_BITS = 10
_SHIFT = 23 - _MANTISSA_BITS  # a float32 has 23
_FIRST = ((127 + _SMALLEST) << _MANTISSA_BITS) - 1  # the last bin of zero, as leading bits of a float32
_BINS = (_LARGEST - _SMALLEST) << _MANTISSA_BITS  # of each sign
_INFINITY = 0xFF << 23


class Histogram:
    """Counts of an activation's values, in bins of equal relative width (0.1 %).

    The bins are the leading bits of float32 itself. So no range must be known before, one pass is enough, memory
    does not depend on how many values are counted, and an outlier costs the other values no resolution.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([0.0, 0.0, -3.0, 6.5]))
        >>> values, counts = histogram.points()
        >>> values.round(2).tolist(), counts.tolist()
        ([-3.0, 0.0, 6.5], [1, 2, 1])
    """

    def __init__(self) -> None:
        self._counts = np.zeros(2 * _BINS + 1, dtype=np.int64)  # negative, zero, positive; ascending

    def add(self, values: NDArray[np.floating]) -> None:
        """Count some values.

        Raises:
            QuantizationError: one of them is NaN or infinite.
        """
        bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.int32)
        bins = bits & 0x7FFFFFFF
        if bins.size and np.max(bins) >= _INFINITY:
            raise QuantizationError("expected finite values, got NaN or infinity")
        bins >>= _SHIFT
        bins -= _FIRST
        np.clip(bins, 0, _BINS, out=bins)
        np.negative(bins, where=bits < 0, out=bins)
        bins += _BINS
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def add_histogram(self, other: Histogram) -> None:
        """Count what another histogram has counted too."""
        self._counts += other._counts

    def points(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the middle of each bin that is not empty, ascending, and how many values it holds."""
        filled = np.flatnonzero(self._counts)
        magnitude = np.abs(filled - _BINS).astype(np.int32)
        middle = (((magnitude + _FIRST) << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float32)
        values = np.where(magnitude == 0, np.float32(0), np.copysign(middle, filled - _BINS)).astype(np.float32)
        return values, self._counts[filled]
