"""Going back to where a training was sound, and on from there at half the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from visionlora.adapters.torch import trained_state

MOST_HALVINGS = 3
HALF_RANGE = 65504.0
"""The largest number of half precision. Class outputs beyond it say that a training runs away: they grow where their
gradient is zero, at sizes of objects that no picture shows, and float32 only hides that until the score is zero."""


class FallBack:
    """What a run goes back to: the average after its last sound epoch.

    Attributes:
        halvings: how often the learning rate was halved so far.
        best_fitness: the best of the sound epochs; None before the first.
    """

    def __init__(self) -> None:
        self.halvings = 0
        self.best_fitness: float | None = None
        self._kept: list[torch.Tensor] = []
        self._updates = 0
        self._scaler: Mapping[str, Any] = {}

    def keep(self, average: ModelEMA, scaler: GradScaler, best_fitness: float | None) -> None:
        """Remember the averaged tensors, how much the loss is scaled, and the best fitness so far."""
        self._kept = [tensor.detach().clone() for tensor in trained_state(average.ema).values()]
        self._updates = average.updates
        self._scaler, self.best_fitness = scaler.state_dict(), best_fitness

    def go_back(
        self,
        model: nn.Module,
        average: ModelEMA,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        scaler: GradScaler,
    ) -> None:
        """Make model and average what was remembered, forget the optimizer's moments and halve the learning rate.

        The scale of the loss is as before too: each step without numbers halves it, down to zero in a long epoch.
        """
        for module in (unwrap_model(model), average.ema):
            for tensor, kept in zip(trained_state(module).values(), self._kept, strict=True):
                tensor.data.copy_(kept)
        average.updates = self._updates
        scaler.load_state_dict(dict(self._scaler))
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["initial_lr"] /= 2
            group["lr"] /= 2
        self.halvings += 1
        take_rates(scheduler, optimizer)


def take_rates(scheduler: LRScheduler, optimizer: Optimizer) -> None:
    """Let a scheduler go by the learning rates that the optimizer begins with now."""
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]


def is_finite(model: nn.Module) -> bool:
    """Whether all that training changes are numbers."""
    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in trained_state(model).values()]).all())


def not_running_away(loss: torch.Tensor, *scores: torch.Tensor) -> torch.Tensor:
    """Return the loss, or NaNs where a class output of any head, before the sigmoid, lies beyond half precision."""
    largest = torch.stack([each.detach().abs().amax() for each in scores]).amax()
    return torch.where(largest <= HALF_RANGE, loss, torch.nan)
