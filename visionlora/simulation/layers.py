"""Weights and biases of all int8 convolutions, rounded as the file keeps them, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

_WEIGHT_MAX = 127
_BIAS_MAX = 2**30
_TINY = torch.finfo(torch.float32).tiny


class LayerConstants:
    """Rounds the constants of several convolutions as `visionlora.quantization.weights.quantize_conv` does.

    Everything is joined and computed together: a dozen kernels for all layers instead of a dozen a layer.

    Args:
        shapes: of the weights, (outputs, ...) each.
        device: where they are.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], device: torch.device) -> None:
        self.device = device
        self._rows = [shape[0] for shape in shapes]
        self._sizes = [torch.Size(shape).numel() for shape in shapes]
        columns = [size // rows for size, rows in zip(self._sizes, self._rows, strict=True)]
        lengths = torch.cat([torch.full((rows,), width) for rows, width in zip(self._rows, columns, strict=True)])
        self._row_of = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)
        layer_of = torch.repeat_interleave(torch.arange(len(shapes)), torch.tensor(self._rows))
        self._layer_of = layer_of.to(device)

    def rounded(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor],
        input_scales: Sequence[torch.Tensor],
        dtype: torch.dtype,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return weights and biases on their int8 and int32 levels, as `dtype`; gradients pass through unchanged.

        Args:
            weights: float32, of the shapes given before, in any memory format.
            biases: (outputs,) float32 each.
            input_scales: () each, the scale of a convolution's input.
            dtype: of the result: float32, or half where autocast would round them next.
        """
        flat = torch.cat([_memory_order(weight).reshape(-1) for weight in weights])
        bias = torch.cat(list(biases))
        scales = torch.stack(list(input_scales)).detach()[self._layer_of]
        flat, bias = _Round.apply(flat, bias, scales, self._row_of, dtype)
        pieces = [
            piece.view(_memory_order(weight).shape)
            for piece, weight in zip(flat.split(self._sizes), weights, strict=True)
        ]
        shaped = [
            piece.permute(0, 3, 1, 2) if _channels_last(weight) else piece
            for piece, weight in zip(pieces, weights, strict=True)
        ]
        return shaped, list(bias.split(self._rows))


def weight_scales(
    flat: torch.Tensor, bias: torch.Tensor, input_scales: torch.Tensor, row_of: torch.Tensor
) -> torch.Tensor:
    """Return the scale of every output channel, (rows,) float32: `quantize_conv`'s, bit for bit.

    Args:
        flat: all weights in one axis.
        bias: (rows,).
        input_scales: (rows,), of the input of the convolution that a row belongs to.
        row_of: the row of each weight.
    """
    largest = torch.zeros_like(bias).scatter_reduce_(0, row_of, flat.abs(), "amax").double()
    least = bias.double().abs() / (input_scales.double() * _BIAS_MAX)  # a large bias must fit into an int32
    smallest = torch.maximum(largest / _WEIGHT_MAX, least)
    return torch.where(smallest < _TINY, 1.0, smallest).float()


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        flat: torch.Tensor,
        bias: torch.Tensor,
        input_scales: torch.Tensor,
        row_of: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scale = weight_scales(flat, bias, input_scales, row_of)
        by_element = scale[row_of]
        levels = torch.round(flat / by_element).clamp_(-_WEIGHT_MAX, _WEIGHT_MAX)
        unit = (scale * input_scales).double()
        steps = torch.round(bias.double() / unit).clamp_(-_BIAS_MAX, _BIAS_MAX)
        return levels.mul_(by_element).to(dtype), (steps.float() * unit.float()).to(dtype)

    @staticmethod
    def backward(ctx: Any, flat: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return flat.float(), bias.float(), None, None, None


def _channels_last(weight: torch.Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _memory_order(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight with its axes as they lie in memory: nothing is copied to join it with others."""
    return cast(torch.Tensor, weight.permute(0, 2, 3, 1) if _channels_last(weight) else weight)
