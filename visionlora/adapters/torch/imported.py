"""What another library trained, layer by layer, as settings and tensors of an adapter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from visionlora.adapters.arithmetic import ordered_norms
from visionlora.adapters.card import AdapterSettings
from visionlora.adapters.methods import DoRA, LoRA
from visionlora.adapters.shapes import BIAS, GAIN, check_shapes, layer_rank, method_tensor
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.adapters.torch.plan import AdapterPlan
from visionlora.errors import AdapterError

PlanFor = Callable[[AdapterSettings], AdapterPlan]
"""Returns the plan of a model under other settings."""


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of one layer; what is None stays. A layer has factors or a full change, not both.

    Attributes:
        right: A as (rank, inputs x kernel).
        left: B with its scale as (outputs, rank).
        full: what is added to the weight, of its shape.
        magnitude: relative change of the norm of each output's weights, (outputs,), for DoRA.
        bias: what is added to the bias, or to the shift of the batch normalization behind, (outputs,).
        gain: relative change of the scale of the batch normalization behind, (outputs,).
    """

    right: torch.Tensor | None = None
    left: torch.Tensor | None = None
    full: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    gain: torch.Tensor | None = None


def row_norms(weight: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each output's weights, (outputs,)."""
    return torch.from_numpy(ordered_norms(weight.numpy())).float()


def targets_of(layers: Iterable[Layer]) -> str:
    """Return the targets that are these layers alone."""
    return "|".join(re.escape(layer.name) for layer in layers)


def held_changes(
    model: nn.Module,
    kind: type[LoRA | DoRA],
    changes: Mapping[Layer, Change],
    outputs: Mapping[str, torch.Tensor],
    plan_for: PlanFor,
) -> tuple[AdapterSettings, dict[str, torch.Tensor]]:
    """Return settings and tensors of an adapter that makes these changes.

    Factors stay factors where an adapter here has such in their layer. Where it has not (a layer too small for the
    rank, a layer changed in full), the change is kept at full rank, and so is that of every layer of up to its size.

    Args:
        model: the base as it was loaded, with the class outputs that the adapter brings.
        kind: the method.
        changes: of all layers that may be adapted.
        outputs: weights and biases of the class outputs that the adapter brings, by their names.
        plan_for: of this model.

    Raises:
        AdapterError: no layer changes, or one in a way that an adapter here has no form for.
    """
    chosen = [layer for layer, change in changes.items() if any(part is not None for part in vars(change).values())]
    if not chosen:
        raise AdapterError("expected changes of layers, found none")
    settings = _settings(kind, chosen, changes)
    plan = plan_for(settings)
    expected = expected_shapes(model, plan)
    made = dict(outputs)
    for layer in plan.adapted:
        made |= _tensors(plan, layer, changes[layer], bias=f"{layer.name}{BIAS}" in expected)
    held = {name: tensor.float().clone() for name, tensor in made.items()}
    check_shapes(expected, held)
    return settings, held


def _settings(kind: type[LoRA | DoRA], chosen: Iterable[Layer], changes: Mapping[Layer, Change]) -> AdapterSettings:
    full, ranks = 0, {}
    for layer in chosen:
        change = changes[layer]
        ranks[layer] = 0 if change.right is None else len(change.right)
        if change.full is not None or ranks[layer] > layer_rank(ranks[layer] or 1, layer.outputs, layer.inputs):
            full = max(full, layer.outputs * layer.inputs)
    rank = max((rank for layer, rank in ranks.items() if layer.outputs * layer.inputs > full), default=1)
    held = [changes[layer] for layer in chosen]
    return AdapterSettings(
        kind(rank=max(rank, 1), full=full),
        targets=targets_of(chosen),
        train_bias=any(change.bias is not None for change in held),
        normalization="live" if any(change.gain is not None for change in held) else "frozen",
    )


def _tensors(plan: AdapterPlan, layer: Layer, change: Change, *, bias: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of one layer."""
    method = cast("LoRA | DoRA", plan.settings.method)
    direction = LoRA(method.rank, method.alpha, method.full)
    own: dict[str, torch.Tensor] = {}
    for name, shape in method.shapes(layer.shape).items():
        if name == "delta" and change.right is not None:
            own[name] = (cast(torch.Tensor, change.left).double() @ change.right.double()).reshape(shape)
        elif name == "delta":
            own[name] = torch.zeros(shape) if change.full is None else change.full
        elif name == "magnitude_delta":
            own[name] = torch.zeros(shape) if change.magnitude is None else change.magnitude
        else:
            factor = change.right if name == "lora_A" else change.left
            matrix = torch.zeros(shape).flatten(1)
            if factor is not None:
                part = factor if name == "lora_A" else factor / direction.scale(shape[1])
                matrix[: len(part), : part.shape[1]] = part
            own[name] = matrix.reshape(shape)
    made = {method_tensor(layer.name, name): tensor for name, tensor in own.items()}
    zeros = torch.zeros(layer.outputs)
    if bias:
        made[f"{layer.name}{BIAS}"] = zeros if change.bias is None else change.bias
    if layer.name in plan.live:
        made[f"{layer.name}{GAIN}"] = zeros if change.gain is None else change.gain
    elif change.gain is not None:
        raise AdapterError(
            f"{layer.name}: the scale of its batch normalization changed, which no adapter here can hold"
        )
    return made
