"""Training one adapter in several processes, a GPU each: every step computes as on one GPU, and gradients are averaged.

An adapter has few gradients, so one exchange before the optimizer's step does it. torch's DistributedDataParallel would
exchange them during the backward pass, which a CUDA graph cannot hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import distributed, nn


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Keep Ultralytics from wrapping the model in DistributedDataParallel.

    Answers ultralytics/engine/trainer.py, which wraps it where it trains in several processes.
    """
    original = nn.parallel.DistributedDataParallel
    nn.parallel.DistributedDataParallel = lambda model, **options: model  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        nn.parallel.DistributedDataParallel = original  # type: ignore[misc]


@torch.no_grad()
def start_alike(model: nn.Module) -> None:
    """Give all processes the trained tensors of the first one."""
    for parameter in model.parameters():
        distributed.broadcast(parameter.data, src=0)


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes, in one exchange.

    All processes must have gradients of the same parameters.
    """
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    together = torch.cat([parameter.grad.reshape(-1) for parameter in trained if parameter.grad is not None])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for parameter, mean in zip(trained, together.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = mean.view_as(parameter)
