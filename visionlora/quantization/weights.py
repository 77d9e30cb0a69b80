"""A convolution's weights as int8 and its bias as int32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WEIGHT_MAX = 127
_BIAS_MAX = 2**30  # half of int32, so that the sum of products still has room


@dataclass(frozen=True, eq=False)
class QuantizedConv:
    """Constants of a convolution.

    Attributes:
        weight: int8, (outputs, inputs / groups, ...).
        scale: (outputs,), always positive.
        bias: (outputs,) int32 in units of `bias_scale`; None where the convolution has none.
        bias_scale: (outputs,), scale of the input times scale of the weight, as the integer kernels want it.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32] | None
    bias_scale: NDArray[np.float32]


def quantize_conv(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, input_scale: np.float32
) -> QuantizedConv:
    """Quantize symmetrically, each output channel by its largest weight.

    Args:
        weight: (outputs, inputs / groups, ...).
        bias: (outputs,), or None.
        input_scale: scale of the convolution's quantized input.
    """
    largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    smallest = largest / _WEIGHT_MAX
    if bias is not None:
        # A bias much larger than all weights of its channel must still fit into an int32.
        smallest = np.maximum(smallest, np.abs(bias.astype(np.float64)) / (float(input_scale) * _BIAS_MAX))
    scale = np.where(smallest < np.finfo(np.float32).tiny, 1.0, smallest).astype(np.float32)  # a dead channel
    by_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    levels = np.clip(np.rint(weight / by_channel), -_WEIGHT_MAX, _WEIGHT_MAX).astype(np.int8)
    bias_scale = (scale * input_scale).astype(np.float32)
    if bias is None:
        return QuantizedConv(levels, scale, None, bias_scale)
    steps = np.clip(np.rint(bias / bias_scale.astype(np.float64)), -_BIAS_MAX, _BIAS_MAX)
    return QuantizedConv(levels, scale, steps.astype(np.int32), bias_scale)
