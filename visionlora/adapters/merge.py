"""Merging an adapter into the weights of its base: afterwards the model is an ordinary one again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from visionlora.adapters.plan import AdapterPlan
from visionlora.lowrank import low_rank_delta
from visionlora.lowrank.shapes import check_shapes


@torch.no_grad()
def merge(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add the adapter `tensors` to the weights of `model` in place: W += scale * B @ A.

    `model` is the base as it was loaded (not attached, batch normalization in place), with the class outputs that the
    adapter brings. Batch normalization keeps its statistics and scale; a trained bias goes into its shift where a
    layer has one, else into the layer's own bias.

    Raises:
        AdapterError: the tensors do not fit the plan; the model is unchanged then.
    """
    check_shapes(_expected_shapes(model, plan), tensors)
    for layer in plan.adapted:
        weight = model.get_parameter(layer.weight)
        left, right = tensors[f"{layer.name}.lora_B.weight"], tensors[f"{layer.name}.lora_A.weight"]
        delta = low_rank_delta(left.cpu().numpy(), right.cpu().numpy(), plan.settings.scale(len(right)))
        weight.add_(torch.from_numpy(delta).view(weight.shape).to(weight))
        if _trains_bias(model, plan, layer.name, layer.bias):
            norm = plan.norms.get(layer.name)
            bias = cast(nn.BatchNorm2d, model.get_submodule(norm)).bias if norm else model.get_parameter(layer.bias)
            bias.add_(tensors[f"{layer.name}.bias_delta"].to(bias))
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            parameter.copy_(tensors[f"{layer.name}.{name}"])


def _trains_bias(model: nn.Module, plan: AdapterPlan, name: str, path: str) -> bool:
    if not plan.settings.train_bias:
        return False
    if name in plan.norms:
        return True
    owner, _, attribute = path.rpartition(".")
    return getattr(model.get_submodule(owner), attribute, None) is not None


def _expected_shapes(model: nn.Module, plan: AdapterPlan) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in plan.adapted:
        rank = layer.rank(plan.settings.rank)
        shapes[f"{layer.name}.lora_A.weight"] = (rank, *layer.shape[1:])
        shapes[f"{layer.name}.lora_B.weight"] = (layer.outputs, rank, *(1 for _ in layer.shape[2:]))
        if _trains_bias(model, plan, layer.name, layer.bias):
            shapes[f"{layer.name}.bias_delta"] = (layer.outputs,)
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            shapes[f"{layer.name}.{name}"] = tuple(parameter.shape)
    return shapes
