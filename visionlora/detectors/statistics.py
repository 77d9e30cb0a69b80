"""How far pictures are from what a base has seen, by the statistics that its batch normalization keeps of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

EARLY = 0.4
"""Share of a backbone that sees colours and edges: gray pictures of anything differ there."""


@torch.no_grad()
def statistics_shift(
    norms: Iterable[nn.BatchNorm2d], run: Callable[[torch.Tensor], object], squares: Sequence[NDArray[np.uint8]]
) -> float:
    """Return the mean divergence of what enters some norms from the statistics that they keep.

    Each channel counts log(1 + KL) of two Gaussians, of the pictures and of the base; each norm its channels' mean.
    The jackknife takes off what few pictures alone make of it. Without norms there is nothing to say: 0.

    Args:
        norms: of the backbone, without those that see colours and edges.
        run: takes an image (1, 3, S, S) RGB in [0, 1] through them.
        squares: (S, S, 3) BGR each, as `letterbox_pixels` gives them.
    """
    moments: dict[nn.BatchNorm2d, list[torch.Tensor]] = {}
    with _watched(norms, moments):
        for square in squares:
            run(torch.from_numpy(np.ascontiguousarray(square[..., ::-1].transpose(2, 0, 1)))[None].float() / 255)
    found = [_divergences(norm, torch.stack(seen)) for norm, seen in moments.items()]
    if not found:
        return 0.0
    count, whole = len(squares), np.mean([each for each, _ in found])
    without = np.mean([each for _, each in found])
    return float(max(count * whole - (count - 1) * without, 0.0))


@contextmanager
def _watched(norms: Iterable[nn.BatchNorm2d], moments: dict[nn.BatchNorm2d, list[torch.Tensor]]) -> Iterator[None]:
    """Note mean and mean square (2, channels) of what enters each norm at each pass inside."""

    def note(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].double()
        moments.setdefault(cast(nn.BatchNorm2d, norm), []).append(
            torch.stack((x.mean((0, 2, 3)), x.square().mean((0, 2, 3))))
        )

    handles = [norm.register_forward_pre_hook(cast(Callable[..., None], note)) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _divergences(norm: nn.BatchNorm2d, seen: torch.Tensor) -> tuple[float, NDArray[np.float64]]:
    """Return the channels' mean with all pictures and (pictures,) without each, of (pictures, 2, channels) moments."""
    total = seen.sum(0)
    without = (total - seen) / max(len(seen) - 1, 1)
    mean, square = torch.cat((total[None] / len(seen), without)).unbind(1)
    before = cast(torch.Tensor, norm.running_var).double() + norm.eps
    ratio = ((square - mean.square()).clamp(min=0) + norm.eps) / before
    distance = (mean - cast(torch.Tensor, norm.running_mean).double()).square() / before
    found = torch.log1p((ratio + distance - 1 - ratio.log()).clamp(min=0) / 2).mean(1).cpu().numpy()
    return float(found[0]), found[1:]
