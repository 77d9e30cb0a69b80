"""Training one adapter in several processes, a GPU each: every step computes as on one GPU, and gradients are averaged.

An adapter has few gradients, so one exchange before the optimizer's step does it. torch's DistributedDataParallel would
exchange them during the backward pass, which a CUDA graph cannot hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import distributed, nn

from visionlora.yolo.step import TrainingStep


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
def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes, in one exchange.

    All processes must have gradients of the same parameters. Afterwards a gradient lies in memory as its parameter
    does: fused optimizers pair them number by number.
    """
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    together = torch.cat([_gradient_in_memory(parameter) for parameter in trained])
    exchange = distributed.all_reduce(together, async_op=True)
    exchange.synchronize() if together.is_cuda else exchange.wait()  # Ultralytics has NCCL's `wait` stop the CPU too
    together /= distributed.get_world_size()
    for parameter, mean in zip(trained, together.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = mean.as_strided(parameter.shape, parameter.stride(), mean.storage_offset())


def leave_together(model: nn.Module) -> None:
    """End the exchange between the processes, each of which has done its part; without it they may never exit.

    NCCL waits at the end of a process for CUDA graphs that are still there, so those of `model` go first.
    """
    if isinstance(model, TrainingStep):
        model.drop_graphs()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    distributed.barrier()
    distributed.destroy_process_group()


def _gradient_in_memory(parameter: nn.Parameter) -> torch.Tensor:
    """Return the gradient in one row, in the order in which the parameter lies in memory."""
    gradient = cast(torch.Tensor, parameter.grad)
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,), gradient.storage_offset())
