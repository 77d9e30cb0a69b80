"""Replacing SiLU by ReLU step by step while an adapter trains, so that it never meets a network it does not know."""

from __future__ import annotations

import torch
from torch import nn

PART = 0.5
"""Of the epochs: so long SiLU fades; the rest is trained with ReLU alone."""


class SiLUToReLU(nn.Module):
    """A mixture of SiLU and ReLU while training, ReLU alone otherwise.

    Attributes:
        share: () of ReLU in the mixture, a tensor on the device, so that a CUDA graph reads what it is now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros(()), persistent=False)
        self.share: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return an activation of the shape and dtype of `x`."""
        clipped = torch.relu(x)
        if not self.training:
            return clipped
        return torch.lerp(nn.functional.silu(x), clipped, self.share.to(x.dtype))


def fade(model: nn.Module, epoch: int, epochs: int) -> None:
    """Set the mixture of an epoch (from 0): a straight line from SiLU to ReLU over the first `PART` of the run."""
    share = min(1.0, (epoch + 1) / (PART * epochs))
    for module in model.modules():
        if isinstance(module, SiLUToReLU):
            module.share.fill_(share)
