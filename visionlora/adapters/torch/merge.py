"""Merging an adapter into the weights of its base: afterwards the model is an ordinary one again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from visionlora.adapters.arithmetic import scaled_channels
from visionlora.adapters.shapes import BIAS, GAIN, adapted_shapes, check_merges, check_shapes, tensors_of
from visionlora.adapters.torch.added import added_shapes
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.packed import round_weights
from visionlora.adapters.torch.plan import AdapterPlan


@torch.no_grad()
def merge(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put the adapted weights in place of those of `model`, in the precision of the base that the plan has.

    `model` is the base as it was loaded (not attached, batch normalization in place), with the class outputs that the
    adapter brings. Batch normalization keeps its statistics and scale; a trained bias goes into its shift where a
    layer has one, else into the layer's own bias.

    Raises:
        AdapterError: the tensors do not fit the plan, or its method cannot be merged; the model is unchanged then.
        ModelError: the base cannot be rounded; the model is unchanged then.
    """
    check_merges(plan.settings.method)
    check_shapes(expected_shapes(model, plan), tensors)
    round_weights(model, plan)
    for layer in plan.adapted:
        weight = model.get_parameter(layer.weight)
        own = tensors_of(plan.settings.method, layer.name, layer.shape, tensors)
        arrays = {name: tensor.cpu().numpy() for name, tensor in own.items()}
        merged = plan.settings.method.merged(weight.detach().float().cpu().numpy(), arrays)
        gain = tensors.get(f"{layer.name}{GAIN}")
        weight.copy_(torch.from_numpy(scaled_channels(merged, None if gain is None else gain.cpu().numpy())))
        if f"{layer.name}{BIAS}" in tensors:
            norm = plan.norms.get(layer.name)
            bias = cast(nn.BatchNorm2d, model.get_submodule(norm)).bias if norm else model.get_parameter(layer.bias)
            bias.add_(tensors[f"{layer.name}{BIAS}"].to(bias))
    for layer in plan.whole:
        for name, parameter in _whole_parameters(model, plan, layer).items():
            parameter.copy_(tensors[name])


def _whole_parameters(model: nn.Module, plan: AdapterPlan, layer: Layer) -> dict[str, nn.Parameter]:
    """Return where the tensors of a layer trained whole go; its bias into the shift of a norm behind it.

    Such a norm is that of a new layer, which changes nothing: folded or not, the weight is the same.
    """
    parameters = {f"{layer.name}.{name}": each for name, each in model.get_submodule(layer.name).named_parameters()}
    if layer.name in plan.norms:
        parameters[f"{layer.name}.bias"] = cast(nn.BatchNorm2d, model.get_submodule(plan.norms[layer.name])).bias
    return parameters


def _trains_bias(model: nn.Module, plan: AdapterPlan, name: str, path: str) -> bool:
    if not plan.settings.train_bias:
        return False
    if name in plan.norms:
        return True
    owner, _, attribute = path.rpartition(".")
    return getattr(model.get_submodule(owner), attribute, None) is not None


def expected_shapes(model: nn.Module, plan: AdapterPlan) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of an adapter that `plan` makes for a base as it was loaded."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in plan.adapted:
        bias = _trains_bias(model, plan, layer.name, layer.bias)
        live = layer.name in plan.live
        shapes |= adapted_shapes(plan.settings.method, layer.name, layer.shape, bias=bias, gain=live)
    for layer in plan.whole:
        shapes |= {name: tuple(each.shape) for name, each in _whole_parameters(model, plan, layer).items()}
    return shapes | added_shapes(plan)
