"""What the factor A begins with, where it is not drawn, and how fast B learns beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from visionlora.adapters.torch.attach import AdaptedWeight
from visionlora.errors import VisionLoraError

_A = "lora_A"


def factored_layers(model: nn.Module) -> dict[str, tuple[AdaptedWeight, torch.Tensor]]:
    """Return the weights that are adapted by factors, by name, each with what the layer keeps of the base's."""
    return {
        f"{name}.{weight}": (cast(AdaptedWeight, chain[0]), chain.original)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for weight, chain in cast("Mapping[str, parametrize.ParametrizationList]", module.parametrizations).items()
        if hasattr(chain[0], _A)
    }


def frozen_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the base's weights of `factored_layers`, (outputs, ...), as the layers compute with them: folded."""
    return {name: layer.frozen(kept) for name, (layer, kept) in factored_layers(model).items()}


@contextmanager
def weight_gradients(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Add up the gradients of the adapted weights of `factored_layers`, over all backward passes inside.

    Yields:
        Those (outputs, ...) of the weights that have one so far, by name.
    """
    gradients: dict[str, torch.Tensor] = {}

    def keep(name: str, weight: torch.Tensor) -> None:
        def add(gradient: torch.Tensor) -> None:
            gradients[name] = gradients[name] + gradient if name in gradients else gradient

        if weight.requires_grad:
            weight.register_hook(add)  # type: ignore[no-untyped-call]

    handles = [
        layer.register_forward_hook(lambda _, __, weight, name=name: keep(name, weight))
        for name, (layer, _) in factored_layers(model).items()
    ]
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def start_factors(model: nn.Module, matrices: Mapping[str, torch.Tensor]) -> None:
    """Put the right singular vectors of `matrices`, of the largest singular values, into A.

    They are of the length that the rows of a drawn A have on average. B stays zero, and so the adapted weight stays the
    base's. Where a matrix is missing, or zero, A stays as it was drawn.

    Args:
        model: that `attach` prepared.
        matrices: of the shape of the weights, by the names of `factored_layers`.

    Raises:
        VisionLoraError: one is not finite.
    """
    for name, (layer, _) in factored_layers(model).items():
        if name not in matrices or not matrices[name].any():
            continue
        matrix = matrices[name].float().reshape(len(matrices[name]), -1)
        if not matrix.isfinite().all():
            raise VisionLoraError(f"{name}: expected finite numbers to begin with, got others; train without --start")
        right = cast(torch.Tensor, layer.lora_A)
        # Kaiming's uniform distribution, as in `LoRA.start`, has a variance of 1 / (3 inputs).
        vectors = torch.linalg.svd(matrix, full_matrices=False).Vh[: len(right)] / math.sqrt(3)
        right.copy_(vectors.reshape(right.shape))


def rate_left_factors(optimizer: Optimizer, model: nn.Module, ratio: float) -> None:
    """Let every B of `model` learn `ratio` times as fast as A, in groups of their own behind the others.

    Args:
        optimizer: new, without state, of the parameters of `model`.
        model: that `attach` prepared.
        ratio: of the learning rates.
    """
    lefts = {id(layer.lora_B) for layer, _ in factored_layers(model).values()}
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in lefts]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in lefts]
            optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * ratio})
