"""What the factors of an adapter begin with, where a detector's weights or its first batches say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import distributed
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters.torch import (
    factored_layers,
    freeze_norms,
    frozen_weights,
    kept_statistics,
    start_factors,
    weight_gradients,
)
from visionlora.detectors.ultralytics.step import ALL_MODULES, network_pass

BATCHES = 4
"""Training batches whose gradient is taken."""


def start_from_gradients(model: DetectionModel, batches: Iterable[Mapping[str, Any]], *, processes: int = 1) -> None:
    """Let A of every layer begin with the directions in which full fine-tuning would go.

    In float32 and in little memory: it is done once.

    Args:
        model: a detector with a new adapter, on its device; its statistics stay as they are.
        batches: preprocessed, as Ultralytics' trainer has them: a few of this process.
        processes: how many train together; all begin with the same.

    Raises:
        VisionLoraError: a gradient is not finite.
    """
    model.train()
    freeze_norms(model)
    with weight_gradients(model) as gradients, kept_statistics(model), torch.autocast(_kind(model), enabled=False):
        for batch in batches:
            loss, _ = model.loss(batch, network_pass(model, batch["img"], recompute=ALL_MODULES))
            loss.sum().backward()
    model.zero_grad(set_to_none=True)
    model.criterion = None  # the training makes its own
    if processes > 1:
        for name, weight in frozen_weights(model).items():  # a box's branch has none where no object was near
            gradients[name] = gradients.get(name, torch.zeros_like(weight)).contiguous()
            distributed.all_reduce(gradients[name])
    start_factors(model, gradients)
    if processes > 1:
        for layer, _ in factored_layers(model).values():  # each processor rounds a decomposition in its own way
            right = cast(torch.Tensor, layer.lora_A).detach()
            first = right.contiguous()
            distributed.broadcast(first, src=0)
            right.copy_(first)


def _kind(model: DetectionModel) -> str:
    return next(model.parameters()).device.type
