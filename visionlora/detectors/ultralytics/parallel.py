"""Training one adapter in several processes, a GPU each: every step computes as on one GPU, and gradients are averaged.

An adapter has few gradients, so one exchange before the optimizer's step does it. torch's DistributedDataParallel would
exchange them during the backward pass, which a CUDA graph cannot hold.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import cast

import psutil
import torch
from torch import distributed, nn

from visionlora.adapters.torch import live_statistics
from visionlora.detectors.ultralytics.step import TrainingStep

_WATCH_SECONDS = 1.0
_LAUNCHER = "VISIONLORA_LAUNCHER"  # environment variable: number of the process that called torch's launcher


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


class GradientExchange:
    """Averages the gradients of a model, and the statistics of its live norms, over the processes, in one exchange."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._statistics: list[torch.Tensor] = []
        self._together = torch.empty(0)
        self._parts: list[torch.Tensor] = []

    @torch.no_grad()
    def average(self, model: nn.Module) -> None:
        """Replace each gradient, and each running statistic that is trained, by its mean over the processes.

        All processes must have gradients of the same parameters. Afterwards a gradient lies in memory as its parameter
        does: fused optimizers pair them number by number.
        """
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        if [*map(id, trained)] != [*map(id, self._parameters)]:
            self._prepare(trained, model)
        own = [cast(torch.Tensor, parameter.grad) for parameter in trained] + self._statistics
        torch._foreach_copy_(self._parts, own)
        exchange = distributed.all_reduce(self._together, async_op=True)
        # Ultralytics has NCCL's `wait` stop the CPU too; queued, the optimizer's launches hide behind the exchange.
        exchange.synchronize() if self._together.is_cuda else exchange.wait()
        self._together /= distributed.get_world_size()
        for parameter, mean in zip(trained, self._parts[: len(trained)], strict=True):
            parameter.grad = mean
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._parts[len(trained) :])

    def _prepare(self, trained: list[nn.Parameter], model: nn.Module) -> None:
        """Make room for all gradients and statistics in one row."""
        self._parameters = trained
        self._statistics = [*live_statistics(model).values()]
        tensors = [*trained, *self._statistics]
        self._together = torch.cat([tensor.new_empty(tensor.numel()) for tensor in tensors])
        rows = self._together.split([tensor.numel() for tensor in tensors])
        self._parts = [
            row.as_strided(tensor.shape, tensor.stride(), row.storage_offset())
            for row, tensor in zip(rows, tensors, strict=True)
        ]


def agree(statement: bool, device: torch.device) -> bool:
    """Return whether all processes say so; each must ask."""
    flag = torch.tensor(float(statement), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MIN)
    return bool(flag)


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Tell the processes that are launched whom they train for."""
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_LAUNCHER]


def launch(command: Sequence[str]) -> None:
    """Run torch's launcher, in a session of its own: Ctrl-C reaches this process alone, which then ends the others.

    Raises:
        subprocess.CalledProcessError: one of its processes failed.
    """
    with launching():
        process = subprocess.Popen(command, start_new_session=True)
        try:
            code = process.wait()
        except BaseException:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in (process, *psutil.Process(process.pid).children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """End this process at once where its training fails, or who launched it ends: the others would wait for it.

    An ordinary exit may wait too: NCCL does, for CUDA graphs that are still there.
    """
    launcher = int(os.environ.get(_LAUNCHER, os.getpid()))
    threading.Thread(target=_watch, args=(os.getppid(), launcher), daemon=True).start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):  # the caller says what is kept
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _watch(parent: int, launcher: int) -> None:
    """End this process when torch's launcher, its parent, or who called that has ended.

    Neither sees to it: interrupted, the launcher leaves a process in NCCL alone, and it goes on without its own parent.
    """
    while os.getppid() == parent and psutil.pid_exists(launcher):
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


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
