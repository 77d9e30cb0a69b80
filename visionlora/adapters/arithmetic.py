"""The arithmetic of an adapter, to the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def low_rank_delta(left: NDArray[np.floating], right: NDArray[np.floating], scale: float) -> NDArray[np.float32]:
    """Return scale * B @ A.

    A library's matrix product adds in an order of its own on each processor. Here one rank comes after the other, in
    float64, and every step is rounded as IEEE 754 says: a device gets the bits that the workstation got.

    Args:
        left: B, (outputs, rank, ...) with further axes of length 1.
        right: A, (rank, ...).
        scale: alpha / sqrt(rank).

    Returns:
        (outputs, inputs) float32, where inputs counts the numbers of one row of A.

    Example:
        >>> low_rank_delta(np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]]), 0.5).tolist()
        [[1.5, 2.0], [3.0, 4.0]]
    """
    return rounded(ordered_product(left, right) * scale)


def ordered_product(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the product of two matrices, with further axes flattened: one inner index after the other."""
    columns = left.reshape(len(left), -1).astype(np.float64)
    rows = right.reshape(len(right), -1).astype(np.float64)
    total = np.zeros((len(columns), rows.shape[1]))
    product = np.empty_like(total)
    for column, row in zip(columns.T, rows, strict=True):
        np.multiply(column[:, None], row[None], out=product)
        total += product
    return total


def ordered_norms(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Euclidean norm of each output's weights, (outputs,): one input after the other.

    Example:
        >>> ordered_norms(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [5.0, 0.0]
    """
    total = np.zeros(len(weight))
    for column in weight.reshape(len(weight), -1).T:
        wide = column.astype(np.float64)
        total += wide * wide
    return np.sqrt(total)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return numbers in float32; what is too large is infinite, which whoever uses it refuses by the layer's name."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


_SILENT = 1e-3  # of the loudest channel's gain


def can_be_trained(gain: NDArray[np.floating]) -> bool:
    """Return whether a batch normalization of this gain, (outputs,) gamma / sigma, can be live.

    None can of which a channel is next to silent, for no factor would give it a voice.

    Example:
        >>> can_be_trained(np.array([-1.0, 0.5])), can_be_trained(np.array([1.0, 0.0]))
        (True, False)
    """
    loudness = np.abs(gain.astype(np.float64))
    return bool(np.all(loudness > _SILENT * loudness.max(initial=0)))


def scaled_channels(weight: NDArray[np.float32], delta: NDArray[np.floating] | None) -> NDArray[np.float32]:
    """Return a weight (outputs, ...) whose channels count 1 + delta (outputs,) times as much; None for as they are."""
    if delta is None:
        return weight
    factor = np.float32(1) + delta.astype(np.float32)
    return weight * factor.reshape(-1, *(1 for _ in weight.shape[1:]))
