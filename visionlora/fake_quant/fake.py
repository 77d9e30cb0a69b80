"""Rounding activations to the 256 levels of their range, with gradients (arXiv 1902.08153, 2004.09576).

The value is what QuantizeLinear and DequantizeLinear of ONNX give: `(clip(round(x / scale) + zero, 0, 255) - zero) *
scale`, halves to even. The gradient with respect to `x` is that of the clipping alone; those with respect to scale and
zero point are those of LSQ+, divided by sqrt(elements * 255) as in LSQ, so that no range outweighs an adapter where
gradients are clipped together.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from visionlora.fake_quant import kernels

LEVELS = 256
_HIGHEST = LEVELS - 1


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return `x` rounded to the levels of one range, in the shape and dtype of `x`.

    Args:
        x: any shape, float32 or half.
        scale: (), float32, positive: the distance between two levels.
        zero: (), float32, a whole number in [0, 255]: the level of zero.

    Example:
        >>> fake_quantize(torch.tensor([-2.0, 0.004, 0.5]), torch.tensor(0.01), torch.tensor(100.0))
        tensor([-1.0000,  0.0000,  0.5000])
    """
    return cast(torch.Tensor, _FakeQuantize.apply(x, scale, zero))


def quantized_silu(
    x: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return what an int8 graph makes of `x * sigmoid(x)`: x, the sigmoid (levels of [0, 1]) and the product rounded.

    Args:
        x: any shape, float32 or half: the output of a convolution.
        before, after: scale and zero point of x and of the product.
    """
    if kernels.fits(x):
        return cast(torch.Tensor, _QuantizedSilu.apply(x, *before, *after))
    rounded = fake_quantize(x, *before)
    unit = (torch.full_like(before[0], 1 / _HIGHEST), torch.zeros_like(before[1]))
    gate = fake_quantize(torch.sigmoid(rounded.float()), *unit)
    return fake_quantize(rounded.float() * gate, *after).to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, scale, zero)
        if kernels.fits(x):
            return kernels.fake_quantize(x, scale, zero)
        levels = (torch.round(x.float() / scale) + zero).clamp_(0, _HIGHEST)
        return levels.sub_(zero).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, scale, zero = ctx.saved_tensors
        share = 1 / math.sqrt(max(x.numel(), 1) * _HIGHEST)
        if kernels.fits(x):
            passed, sums = kernels.fake_quantize_backward(gradient, x, scale, zero)
            return passed, sums[0] * share, sums[1] * share
        values, gradient32 = x.float(), gradient.float()
        levels = torch.round(values / scale) + zero
        inside = (levels >= 0) & (levels <= _HIGHEST)
        clipped = levels.clamp(0, _HIGHEST) - zero
        passed = torch.where(inside, gradient32, 0)
        by_scale = torch.where(inside, clipped - values / scale, clipped)
        by_zero = torch.where(inside, 0, -scale)
        return (
            passed.to(x.dtype),
            (gradient32 * by_scale).sum() * share,
            (gradient32 * by_zero).sum() * share,
        )


class _QuantizedSilu(torch.autograd.Function):
    """The four steps of `quantized_silu` in one kernel each way; only `x` is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *ranges: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *ranges)
        return kernels.quantized_silu(x, *ranges)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        x, *ranges = ctx.saved_tensors
        share = 1 / math.sqrt(max(x.numel(), 1) * _HIGHEST)
        passed, sums = kernels.quantized_silu_backward(gradient, x, *ranges)
        return passed, *(sums * share).unbind()
