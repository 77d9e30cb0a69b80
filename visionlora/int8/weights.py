"""A convolution's weights as int8, or as int4 in groups that make int8, and its bias as int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import QuantizationError
from visionlora.int8.limits import ALMOST, BIAS_MAX, INT4_MAX, MULTIPLIER_MAX, WEIGHT_MAX


@dataclass(frozen=True, eq=False)
class Int4Weight:
    """A weight in groups: multiplier times level is the int8 weight, exactly.

    Attributes:
        levels: (outputs, groups, weights of a group), int8 values in [-7, 7].
        multiplier: (outputs, groups, 1), in [1, 15].
    """

    levels: NDArray[np.int8]
    multiplier: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class QuantizedConv:
    """Constants of a convolution.

    Attributes:
        weight: int8, (outputs, inputs / groups, ...).
        scale: (outputs,), always positive.
        bias: (outputs,) int32 in units of `bias_scale`; None where the convolution has none.
        bias_scale: (outputs,), scale of the input times scale of the weight, as the integer kernels want it.
        int4: what `weight` is the product of; None where its numbers are any int8.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32] | None
    bias_scale: NDArray[np.float32]
    int4: Int4Weight | None = None


def quantize_conv(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    input_scale: np.float32,
    group: int | None = None,
    *,
    most: int = WEIGHT_MAX,
) -> QuantizedConv:
    """Quantize symmetrically, each output channel by its largest weight.

    With int4 weights each group of neighbours has a multiple of its channel's scale as its own: the smallest that
    reaches the group's largest weight.

    Args:
        weight: (outputs, inputs / groups, ...).
        bias: (outputs,), or None.
        input_scale: scale of the convolution's quantized input.
        group: how many neighbouring weights of a channel share a multiplier; None for int8 weights.
        most: the largest int8 weight, without groups.

    Raises:
        QuantizationError: a weight or a bias is NaN or infinite.
    """
    if not np.isfinite(weight).all() or not (bias is None or np.isfinite(bias).all()):
        raise QuantizationError("weights of the float model: expected finite numbers, got NaN or infinity")
    largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    smallest = largest / (most if group is None else INT4_MAX * MULTIPLIER_MAX)
    if bias is not None:
        # A bias much larger than all weights of its channel must still fit into an int32.
        smallest = np.maximum(smallest, np.abs(bias.astype(np.float64)) / (float(input_scale) * BIAS_MAX))
    scale = np.where(smallest < np.finfo(np.float32).tiny, 1.0, smallest).astype(np.float32)  # a dead channel
    if group is None:
        int4 = None
        by_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
        levels = np.clip(np.rint(weight / by_channel), -most, most).astype(np.int8)
    else:
        int4 = _in_groups(weight.reshape(len(weight), -1, group), scale.reshape(-1, 1, 1))
        levels = (int4.levels * int4.multiplier.astype(np.int8)).reshape(weight.shape)
    bias_scale = (scale * input_scale).astype(np.float32)
    if bias is None:
        return QuantizedConv(levels, scale, None, bias_scale, int4)
    steps = np.clip(np.rint(bias / bias_scale.astype(np.float64)), -BIAS_MAX, BIAS_MAX)
    return QuantizedConv(levels, scale, steps.astype(np.int32), bias_scale, int4)


def _in_groups(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> Int4Weight:
    """Return (outputs, groups, weights of a group) as int4; `scale` is that of the channels."""
    largest = np.abs(weight).max(axis=2, keepdims=True).astype(np.float64)
    needed = np.ceil(largest / (INT4_MAX * scale.astype(np.float64)) - ALMOST)
    multiplier = np.clip(needed, 1, MULTIPLIER_MAX).astype(np.float32)
    levels = np.clip(np.rint(weight / (scale * multiplier)), -INT4_MAX, INT4_MAX)
    return Int4Weight(levels.astype(np.int8), multiplier.astype(np.uint8))
