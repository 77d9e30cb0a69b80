"""Merging an adapter into the weights of its base: afterwards the model is an ordinary one again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from visionlora.adapters.attach import check_shapes, norm_affine
from visionlora.adapters.plan import AdapterPlan


@torch.no_grad()
def merge(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add the adapter `tensors` to the weights of `model` in place: W += scale * B @ A, then its gains and biases.

    `model` is the base as it was loaded (not attached, batch normalization in place), with the class outputs that the
    adapter brings. Batch normalization keeps its statistics. A trained gain multiplies its scale, a trained bias is added
    to its shift, where a layer has one; else both go into the layer's own weight and bias.

    Raises:
        AdapterError: the tensors do not fit the plan; the model is unchanged then.
    """
    check_shapes(_expected_shapes(model, plan), tensors)
    for layer in plan.adapted:
        weight = model.get_parameter(layer.weight)
        left, right = tensors[f"{layer.name}.lora_B.weight"], tensors[f"{layer.name}.lora_A.weight"]
        rank = len(right)
        delta = left.float().reshape(-1, rank) @ right.float().reshape(rank, -1)
        weight.add_((plan.settings.scale(rank) * delta).view(weight.shape).to(weight))
        norm_path = plan.norms.get(layer.name)
        norm = cast(nn.BatchNorm2d, model.get_submodule(norm_path)) if norm_path else None
        if plan.settings.train_gain:
            growth = tensors[f"{layer.name}.gain_delta"].to(weight)
            if norm is None:
                weight.mul_((1 + growth).view(-1, *(1 for _ in weight.shape[1:])))
            else:  # the gain acts before the shift: what the norm subtracts must not grow with it
                gain, _ = norm_affine(norm)
                own = cast("torch.Tensor | None", model.get_submodule(layer.name).bias)
                mean = cast(torch.Tensor, norm.running_mean)
                norm.bias.add_(growth * gain * (mean if own is None else mean - own))
                norm.weight.mul_(1 + growth)
        if _trains_bias(model, plan, layer.name, layer.bias):
            bias = model.get_parameter(layer.bias) if norm is None else norm.bias
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
        if plan.settings.train_gain:
            shapes[f"{layer.name}.gain_delta"] = (layer.outputs,)
        if _trains_bias(model, plan, layer.name, layer.bias):
            shapes[f"{layer.name}.bias_delta"] = (layer.outputs,)
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            shapes[f"{layer.name}.{name}"] = tuple(parameter.shape)
    return shapes
