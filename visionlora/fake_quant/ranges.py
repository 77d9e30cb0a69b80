"""The ranges of all int8 activations of a graph as a few tensors that can be learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from visionlora.errors import QuantizationError

MOST = math.log(8.0)
"""A learned scale stays within a factor of 8 of its calibrated one: none collapses and none runs away."""
_HIGHEST = 255


@dataclass(frozen=True)
class RangeSpec:
    """One range: whose it is, and its levels as they were calibrated.

    Attributes:
        tensors: names of all tensors of the graph that have it.
        sources: those whose values are new; the others only move values that are on the levels already.
        scale: distance between two levels, a float32 value.
        zero_point: the level of zero, in [0, 255].
        learned: whether training may change it.

    Raises:
        QuantizationError: the scale is not finite and positive, or the zero point is no level.
    """

    tensors: tuple[str, ...]
    sources: tuple[str, ...]
    scale: float
    zero_point: int
    learned: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and 0 <= self.zero_point <= _HIGHEST):
            raise QuantizationError(
                f"range of {self.tensors[0]}: expected a positive scale and a zero point in [0, 255], "
                f"got {self.scale} and {self.zero_point}"
            )

    def between(self, low: float, high: float) -> RangeSpec:
        """Return the same with other bounds, as `bounds` gives them."""
        scale = float(np.float32((high - low) / _HIGHEST))
        return replace(self, scale=scale, zero_point=round(-low / scale))

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value, from which `ActivationRange` finds exactly this scale and zero point again."""
        return -self.zero_point * self.scale, (_HIGHEST - self.zero_point) * self.scale


@dataclass(frozen=True)
class FakeQuantSpec:
    """What is int8 in a graph.

    Attributes:
        convs: the convolutions, by node name, or output where unnamed.
        ranges: of the activations.
        int4: how many neighbouring weights of a channel share a multiplier in each convolution with int4 weights.
    """

    convs: tuple[str, ...]
    ranges: tuple[RangeSpec, ...]
    int4: Mapping[str, int] = field(default_factory=dict)


class LearnedRanges(nn.Module):
    """Scales and zero points of many ranges, learned as a factor and a shift of the calibrated ones.

    Both are zero at the start, so weight decay pulls towards the calibrated range. A range that begins at zero
    (behind a ReLU) keeps its zero point: it is the clip.

    Attributes:
        log_factor: (ranges,) logarithm of scale over calibrated scale; counts up to +-`MOST`.
        shift: (ranges,) zero point minus the calibrated one, as a fraction of 255.
    """

    def __init__(self, specs: Sequence[RangeSpec], *, learned: bool = True) -> None:
        super().__init__()
        count = len(specs)
        self.log_factor = nn.Parameter(torch.zeros(count))
        self.shift = nn.Parameter(torch.zeros(count))
        for name in ("scale", "zero", "may_scale", "may_shift"):
            self.register_buffer(name, torch.zeros(count))
        self.scale: torch.Tensor
        self.zero: torch.Tensor
        self.may_scale: torch.Tensor
        self.may_shift: torch.Tensor
        self.calibrate(specs)
        if not learned:
            for name in ("log_factor", "shift"):
                value = getattr(self, name).detach()
                delattr(self, name)
                self.register_buffer(name, value)  # no parameter, so that no trainer can wake it

    @torch.no_grad()
    def calibrate(self, specs: Sequence[RangeSpec]) -> None:
        """Begin anew from these ranges, exactly."""
        device = self.scale.device
        self.scale.copy_(torch.tensor([spec.scale for spec in specs], device=device))
        self.zero.copy_(torch.tensor([float(spec.zero_point) for spec in specs], device=device))
        self.may_scale.copy_(torch.tensor([float(spec.learned) for spec in specs], device=device))
        self.may_shift.copy_(torch.tensor([float(spec.learned and spec.zero_point > 0) for spec in specs]).to(device))
        self.log_factor.zero_()
        self.shift.zero_()

    def forward(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return scale () and zero point () of every range, as float32; differentiable in the parameters."""
        # Not finite counts as unchanged: one bad step must not take a range with it.
        factor = torch.nan_to_num(self.log_factor, nan=0.0, posinf=0.0, neginf=0.0).clamp(-MOST, MOST)
        shift = torch.nan_to_num(self.shift, nan=0.0, posinf=0.0, neginf=0.0)
        scale = self.scale * torch.exp(factor * self.may_scale)
        wanted = (self.zero + _HIGHEST * shift * self.may_shift).clamp(0, _HIGHEST)
        zero = wanted + (torch.round(wanted) - wanted).detach()
        return tuple(zip(scale.unbind(), zero.unbind(), strict=True))

    @torch.no_grad()
    def values(self) -> tuple[tuple[float, int], ...]:
        """Return scale and zero point of every range as numbers."""
        return tuple((float(scale), int(zero)) for scale, zero in self())
