"""Batch normalization behind adapted layers: frozen and folded, or trained along (live)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from visionlora.adapters.arithmetic import can_be_trained


class LiveNorm(nn.BatchNorm2d):
    """A batch normalization that is trained: by the batch's statistics in training mode, by its running ones else.

    In the adapter file it becomes one factor and one addend for each channel, measured from the base's: what stands
    before the norm counts 1 + `gain_delta` times as much, and `bias_delta` is added behind it. The base's own
    statistics and scale stay as they are.

    Args:
        norm: one that can live (see `can_live`).
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.to(norm.weight.device).train(norm.training)
        gain, shift = norm_affine(norm)
        self.base_gain: torch.Tensor
        self.base_shift: torch.Tensor
        self.register_buffer("base_gain", gain)
        self.register_buffer("base_shift", shift)

    def deltas(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `gain_delta` and `bias_delta`, (channels,) each."""
        gain, shift = norm_affine(self)
        return gain / self.base_gain - 1, shift - self.base_shift

    @torch.no_grad()
    def set_deltas(self, gain_delta: torch.Tensor, bias_delta: torch.Tensor) -> None:
        """Become, by affine and not by statistics, what the deltas say."""
        gain = self.base_gain * (1 + gain_delta.to(self.base_gain))
        shift = self.base_shift + bias_delta.to(self.base_shift)
        mean, variance = cast(torch.Tensor, self.running_mean), cast(torch.Tensor, self.running_var)
        self.weight.copy_(gain * torch.sqrt(variance + self.eps))
        self.bias.copy_(shift + mean * gain)


def norm_affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what an affine batch normalization does in eval mode, y = gain * x + shift, as two (channels,) tensors."""
    mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    gain = norm.weight.detach() * torch.rsqrt(variance + norm.eps)
    return gain, norm.bias.detach() - mean * gain


def can_live(norm: nn.Module) -> bool:
    """Whether a norm can be a `LiveNorm`: it is affine, keeps its statistics, and no channel is next to silent."""
    if not (isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats):
        return False
    return can_be_trained(norm_affine(norm)[0].float().cpu().numpy())


def freeze_norms(model: nn.Module) -> None:
    """Keep batch normalization that is neither folded nor live in eval mode: its statistics stay the base's."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, LiveNorm):
            module.eval()


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Let no pass inside change the running statistics of live norms."""
    norms = [module for module in model.modules() if isinstance(module, LiveNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def trained_state(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return all that training changes, by name: the parameters, and the running statistics of live norms."""
    return {**dict(model.named_parameters()), **live_statistics(model)}


def live_statistics(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the running statistics of live norms, by name."""
    return {
        f"{name}.{part}": cast(torch.Tensor, getattr(module, part))
        for name, module in model.named_modules()
        if isinstance(module, LiveNorm)
        for part in ("running_mean", "running_var")
    }
