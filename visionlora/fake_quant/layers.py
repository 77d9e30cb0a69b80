"""Weights and biases of all int8 convolutions, rounded as the file keeps them, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visionlora.int8.limits import ALMOST, BIAS_MAX, INT4_MAX, MULTIPLIER_MAX, WEIGHT_MAX

_TINY = torch.finfo(torch.float32).tiny
Layout = tuple[torch.device, tuple[bool, ...]]
"""Where weights are, and which of them lie with channels last."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Which weights share a multiplier, where some layers have int4 weights; one of int8 weights is one group a row.

    Attributes:
        of_weight: (weights,) int64, the group of each.
        row: (groups,) int64, the row of each.
        most_level: (groups,) the largest level.
        most_multiple: (groups,) the largest multiplier.
        steps: (rows,) double, how many scales the largest weight of a row may be.
    """

    of_weight: torch.Tensor
    row: torch.Tensor
    most_level: torch.Tensor
    most_multiple: torch.Tensor
    steps: torch.Tensor


class LayerConstants:
    """Rounds the constants of several convolutions as `visionlora.int8.weights.quantize_conv` does.

    Everything is joined and computed together: a dozen kernels for all layers instead of a dozen a layer.

    Args:
        weights: float32, (outputs, ...) each. Only their shapes and how they lie in memory count.
        int4: how many neighbouring weights of a row share a multiplier; None where a layer's weights are int8.
    """

    def __init__(self, weights: Sequence[torch.Tensor], int4: Sequence[int | None]) -> None:
        device = weights[0].device
        self._rows = [len(weight) for weight in weights]
        self._sizes = [weight.numel() for weight in weights]
        rows = torch.arange(sum(self._rows))
        lengths = [weight[0].numel() for weight in weights]
        self._row_of = rows.repeat_interleave(torch.tensor(lengths).repeat_interleave(torch.tensor(self._rows)))
        self._row_of = self._row_of.to(device)
        self._layer_of = torch.arange(len(weights)).repeat_interleave(torch.tensor(self._rows)).to(device)
        self._groups = None if not any(int4) else _groups(weights, int4)

    def rounded(
        self,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor],
        input_scales: Sequence[torch.Tensor],
        dtype: torch.dtype,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return weights and biases on their levels, as `dtype`; gradients pass through unchanged.

        Args:
            weights: float32, of the shapes and memory formats given before.
            biases: (outputs,) float32 each.
            input_scales: () each, the scale of a convolution's input.
            dtype: of the result: float32, or half where autocast would round them next.
        """
        flat = torch.cat([_memory_order(weight).reshape(-1) for weight in weights])
        bias = torch.cat(list(biases))
        scales = torch.stack(list(input_scales)).detach()[self._layer_of]
        flat, bias = _Round.apply(flat, bias, scales, self._row_of, self._groups, dtype)
        pieces = [
            piece.view(_memory_order(weight).shape)
            for piece, weight in zip(flat.split(self._sizes), weights, strict=True)
        ]
        shaped = [
            piece.permute(0, 3, 1, 2) if _channels_last(weight) else piece
            for piece, weight in zip(pieces, weights, strict=True)
        ]
        return shaped, list(bias.split(self._rows))


def layout_of(weights: Sequence[torch.Tensor]) -> Layout:
    """Return what `LayerConstants` depends on beside the shapes."""
    return weights[0].device, tuple(map(_channels_last, weights))


def _groups(weights: Sequence[torch.Tensor], int4: Sequence[int | None]) -> Groups:
    """Return the groups of all layers, those of a row in the order of its weights in ONNX."""
    device = weights[0].device
    of_weight, row, levels, multiples, steps = [], [], [], [], []
    groups, rows = 0, 0
    for weight, size in zip(weights, int4, strict=True):
        count, length = len(weight), weight[0].numel()
        own = torch.arange(weight.numel()) // (size or length)
        of_weight.append(groups + _as_in_memory(own.view(weight.shape), weight))
        number = weight.numel() // (size or length)
        row.append(rows + torch.arange(number) // (number // count))
        levels.append(torch.full((number,), float(INT4_MAX if size else WEIGHT_MAX)))
        multiples.append(torch.full((number,), float(MULTIPLIER_MAX if size else 1)))
        steps.append(torch.full((count,), INT4_MAX * MULTIPLIER_MAX if size else WEIGHT_MAX, dtype=torch.float64))
        groups, rows = groups + number, rows + count
    return Groups(*(torch.cat(parts).to(device) for parts in (of_weight, row, levels, multiples, steps)))


def weight_scales(
    flat: torch.Tensor,
    bias: torch.Tensor,
    input_scales: torch.Tensor,
    row_of: torch.Tensor,
    steps: torch.Tensor | float = WEIGHT_MAX,
) -> torch.Tensor:
    """Return the scale of every output channel, (rows,) float32: `quantize_conv`'s, bit for bit.

    Args:
        flat: all weights in one axis.
        bias: (rows,).
        input_scales: (rows,), of the input of the convolution that a row belongs to.
        row_of: the row of each weight.
        steps: how many scales the largest weight may be.
    """
    largest = torch.zeros_like(bias).scatter_reduce_(0, row_of, flat.abs(), "amax").double()
    least = bias.double().abs() / (input_scales.double() * BIAS_MAX)  # a large bias must fit into an int32
    smallest = torch.maximum(largest / steps, least)
    return torch.where(smallest < _TINY, 1.0, smallest).float()


def _in_groups(
    flat: torch.Tensor, bias: torch.Tensor, input_scales: torch.Tensor, row_of: torch.Tensor, groups: Groups
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all weights on their levels, and the scale of every row."""
    scale = weight_scales(flat, bias, input_scales, row_of, groups.steps)
    of_group = scale[groups.row]
    largest = torch.zeros_like(of_group).scatter_reduce_(0, groups.of_weight, flat.abs(), "amax").double()
    needed = torch.ceil(largest / (groups.most_level.double() * of_group.double()) - ALMOST).float()
    multiplier = torch.minimum(needed.clamp_(min=1), groups.most_multiple)
    levels = torch.round(flat / (of_group * multiplier)[groups.of_weight])
    most = groups.most_level[groups.of_weight]
    levels = torch.maximum(torch.minimum(levels, most), -most)
    return levels.mul_(multiplier[groups.of_weight]).mul_(scale[row_of]), scale


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        flat: torch.Tensor,
        bias: torch.Tensor,
        input_scales: torch.Tensor,
        row_of: torch.Tensor,
        groups: Groups | None,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if groups is None:
            scale = weight_scales(flat, bias, input_scales, row_of)
            by_element = scale[row_of]
            weight = torch.round(flat / by_element).clamp_(-WEIGHT_MAX, WEIGHT_MAX).mul_(by_element)
        else:
            weight, scale = _in_groups(flat, bias, input_scales, row_of, groups)
        unit = (scale * input_scales).double()
        steps = torch.round(bias.double() / unit).clamp_(-BIAS_MAX, BIAS_MAX)
        return weight.to(dtype), (steps.float() * unit.float()).to(dtype)

    @staticmethod
    def backward(ctx: Any, flat: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        return flat.float(), bias.float(), None, None, None, None


def _channels_last(weight: torch.Tensor) -> bool:
    return weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _memory_order(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight with its axes as they lie in memory: nothing is copied to join it with others."""
    return weight.permute(0, 2, 3, 1) if _channels_last(weight) else weight


def _as_in_memory(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return one value a weight, in the order in which the weights lie in memory."""
    return (values.permute(0, 2, 3, 1) if _channels_last(weight) else values).reshape(-1)
