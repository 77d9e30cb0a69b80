"""Attaching an adapter to a model for training.

Training runs on the folded graph: batch normalization is multiplied into the convolution before it, so the convolution
sees the adapted weight times gamma / sigma and nothing runs beside it. What is frozen becomes a buffer, so that no
trainer can wake it and no optimizer, gradient clip or DDP bucket sees it. Where the base is kept in fewer bits, the
buffer holds these, and the weight is brought back as it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters.base_precision import Packed
from visionlora.adapters.methods import Method
from visionlora.adapters.shapes import BIAS, GAIN, check_shapes, method_tensor
from visionlora.adapters.torch.added import added_parameters, insert
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.adapters.torch.norms import LiveNorm, norm_affine
from visionlora.adapters.torch.packed import PackedWeight, round_weights
from visionlora.adapters.torch.plan import AdapterPlan


class AdaptedWeight(nn.Module):
    """Parametrization of one weight of shape (outputs, ...) by an adapter method.

    Its parameters are the method's tensors under their short names, such as `lora_A`, without kernel axes that are all
    of length 1.

    Attributes:
        method: how the weight is adapted.
        gain: (outputs, 1) factor gamma / sigma of the batch normalization folded into the weight, or None.
        gain_delta: (outputs,) what live normalization, now folded, had come to; None where there was none.
        packed: makes the base's weight from what is kept of it; None where that is the weight itself.
    """

    def __init__(
        self, method: Method, weight: torch.Tensor, gain: torch.Tensor | None, packed: PackedWeight | None = None
    ) -> None:
        super().__init__()
        self.method = method
        for name, tensor in method.start(weight).items():
            self.register_parameter(name, nn.Parameter(tensor.reshape(_without_kernel(tuple(tensor.shape)))))
        self.ready: torch.Tensor | None = None  # set by BatchedWeights while it computes for all layers
        self.gain: torch.Tensor | None
        self.register_buffer("gain", None if gain is None else gain.reshape(-1, 1))
        self.gain_delta: torch.Tensor | None
        self.register_buffer("gain_delta", None)
        self.packed = packed

    def forward(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the adapted weight, in float32 also under autocast, in the memory format of the base's (`frozen`)."""
        if self.ready is not None:
            return self.ready
        with torch.autocast(kept.device.type, enabled=False):
            return self.method.adapted(self.frozen(kept), dict(self.named_parameters()), self.gain)

    def frozen(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the base's weight, folded, from what the layer keeps of it."""
        return kept if self.packed is None else self.packed(kept)


class TrainedBias(nn.Module):
    """Parametrization of a trained bias that changes nothing, so that all biases can be rounded together."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: torch.Tensor | None = None  # set by BatchedWeights while it computes for all layers

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """Return the bias."""
        return bias if self.ready is None else self.ready


def attach(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
    """Fold, freeze and adapt `model` in place, as `plan` says; the output does not change until it is trained.

    Afterwards the only parameters of the model are the method's tensors, or those of the modules that it adds, the
    biases of adapted layers (if `train_bias`), the affine of live norms and the layers trained whole.

    Args:
        model: as it was loaded, with the class outputs that the adapter brings.
        plan: of this model.
        tensors: of an adapter to go on with, whose live norms are folded and stay what they came to; None begins anew.

    Raises:
        AdapterError: the tensors do not fit.
        ModelError: the base cannot be rounded to the precision of the plan.

    Example:
        >>> import torch
        >>> from visionlora.adapters import AdapterSettings
        >>> from visionlora.adapters.torch import plan_adapter
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        >>> attach(model, plan_adapter(model, AdapterSettings()))
        >>> sorted(name for name, _ in model.named_parameters())  # doctest: +NORMALIZE_WHITESPACE
        ['0.parametrizations.bias.original', '0.parametrizations.weight.0.lora_A',
         '0.parametrizations.weight.0.lora_B']
    """
    if tensors is not None:
        check_shapes(expected_shapes(model, plan), tensors)
    rounded = round_weights(model, plan)
    gains, trained = _fold_or_wake(model, plan, tensors)
    trained |= insert(model, plan, gains)
    for layer in plan.whole:
        trained |= {id(parameter) for parameter in model.get_submodule(layer.name).parameters()}
    for layer in plan.adapted:
        adapted = _adapt(model, plan, layer, gains.get(layer.name), rounded.get(layer.name))
        if layer.name in plan.live and tensors is not None:
            adapted.gain_delta = tensors[f"{layer.name}{GAIN}"].to(gains[layer.name])
        trained |= {id(parameter) for parameter in adapted.parameters()}
        bias = _bias(model, layer)
        if (plan.settings.train_bias or layer.name in plan.live) and bias is not None:
            owner, attribute = _locate(model, layer.weight)
            owner.register_buffer(_FROZEN_BIAS.format(attribute), bias.detach().clone())
            bias_owner, bias_attribute = _locate(model, layer.bias)
            parametrize.register_parametrization(bias_owner, bias_attribute, TrainedBias())
            trained.add(id(bias))
    for layer in plan.rounded:
        if layer not in plan.adapted:
            _to_buffer(*_locate(model, layer.weight))
            own = _packed(plan, layer, rounded[layer.name], gains.get(layer.name))
            _compute(model, layer, own, rounded[layer.name])
    _freeze_others(model, trained)
    if tensors is not None:
        load_adapter_tensors(model, plan, tensors)


def adapter_tensors(model: nn.Module, plan: AdapterPlan) -> dict[str, torch.Tensor]:
    """Return what was trained, as float32 on the CPU, under the names of the adapter file.

    The method's tensors of each adapted layer, or of each site where it adds modules, `<layer>.bias_delta` (out,),
    trained minus base, `<layer>.gain_delta` (out,) of a live norm, and `<layer>.weight` and `<layer>.bias` of the
    layers trained whole (see `visionlora.adapters.shapes`).
    """
    tensors: dict[str, torch.Tensor] = {}
    for layer in plan.adapted:
        trained = dict(_adapted_weight(model, layer).named_parameters())
        for name, shape in plan.settings.method.shapes(layer.shape).items():
            tensors[method_tensor(layer.name, name)] = trained[name].reshape(shape)
        norm, frozen = _live_norm(model, plan, layer), _frozen_bias(model, layer)
        if norm is not None:
            tensors[f"{layer.name}{GAIN}"], tensors[f"{layer.name}{BIAS}"] = norm.deltas()
        elif layer.name in plan.live:
            tensors[f"{layer.name}{GAIN}"] = cast(torch.Tensor, _adapted_weight(model, layer).gain_delta)
        if frozen is not None:
            tensors[f"{layer.name}{BIAS}"] = cast(torch.Tensor, _bias(model, layer)) - frozen
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            tensors[f"{layer.name}.{name}"] = parameter
    tensors |= added_parameters(model, plan)
    return {
        name: tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def load_adapter_tensors(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put `tensors`, as `adapter_tensors` returns them, into a model that `attach` prepared with the same plan.

    Raises:
        AdapterError: a tensor is missing, left over or of another shape; the model is unchanged then.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_tensors(model, plan).items()}
    check_shapes(expected, tensors)
    for layer in plan.adapted:
        for name, parameter in _adapted_weight(model, layer).named_parameters():
            parameter.copy_(tensors[method_tensor(layer.name, name)].reshape(parameter.shape))
        norm, frozen = _live_norm(model, plan, layer), _frozen_bias(model, layer)
        if norm is not None:
            norm.set_deltas(tensors[f"{layer.name}{GAIN}"], tensors[f"{layer.name}{BIAS}"])
        if frozen is not None:
            delta = tensors[f"{layer.name}{BIAS}"].to(frozen)
            cast(torch.Tensor, _bias(model, layer)).copy_(frozen + delta)
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            parameter.copy_(tensors[f"{layer.name}.{name}"])
    for name, parameter in added_parameters(model, plan).items():
        parameter.copy_(tensors[name])


_FROZEN_BIAS = "{}_frozen_bias"  # beside the weight: the folded bias that bias_delta is measured from


def _locate(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, attribute = path.rpartition(".")
    return model.get_submodule(parent), attribute


def _bias(model: nn.Module, layer: Layer) -> torch.Tensor | None:
    owner, attribute = _locate(model, layer.bias)
    return getattr(owner, attribute, None)


def _frozen_bias(model: nn.Module, layer: Layer) -> torch.Tensor | None:
    owner, attribute = _locate(model, layer.weight)
    return getattr(owner, _FROZEN_BIAS.format(attribute), None)


def _live_norm(model: nn.Module, plan: AdapterPlan, layer: Layer) -> LiveNorm | None:
    norm = model.get_submodule(plan.norms[layer.name]) if layer.name in plan.live else None
    return norm if isinstance(norm, LiveNorm) else None


def _adapted_weight(model: nn.Module, layer: Layer) -> AdaptedWeight:
    owner, attribute = _locate(model, layer.weight)
    return cast(AdaptedWeight, cast(nn.ModuleDict, owner.parametrizations)[attribute][0])  # type: ignore[index]


def _without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _to_buffer(module: nn.Module, name: str) -> None:
    tensor = getattr(module, name).detach()
    del module._parameters[name]
    module.register_buffer(name, tensor)


def _freeze_others(model: nn.Module, trained: Set[int]) -> None:
    """Make every parameter a buffer whose id is not among those of `trained`."""
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in trained:
                parameter.requires_grad_(True)
            else:
                _to_buffer(module, name)


def _adapt(
    model: nn.Module, plan: AdapterPlan, layer: Layer, gain: torch.Tensor | None, packed: Packed | None
) -> AdaptedWeight:
    """Freeze the weight of a layer, as it is or packed, and let the method of the plan adapt it."""
    owner, attribute = _locate(model, layer.weight)
    _to_buffer(owner, attribute)
    own = None if packed is None else _packed(plan, layer, packed, gain)
    adapted = AdaptedWeight(plan.settings.method, getattr(owner, attribute), gain, own)
    _compute(model, layer, adapted, packed)
    return adapted


def _packed(plan: AdapterPlan, layer: Layer, packed: Packed, gain: torch.Tensor | None) -> PackedWeight:
    return PackedWeight(plan.settings.base_precision, packed, layer.shape, gain)


def _compute(model: nn.Module, layer: Layer, parametrization: nn.Module, packed: Packed | None) -> None:
    """Make a frozen weight by `parametrization`: from itself, or from the codes that take its place."""
    owner, attribute = _locate(model, layer.weight)
    if packed is not None:
        device = getattr(owner, attribute).device
        setattr(owner, attribute, torch.from_numpy(packed["codes"]).to(device))
        parametrization.to(device)
    parametrize.register_parametrization(owner, attribute, parametrization, unsafe=packed is not None)


def _fold_or_wake(
    model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor] | None
) -> tuple[dict[str, torch.Tensor], set[int]]:
    """Fold the norms of the plan, or make them live where nothing was trained yet.

    Returns:
        The factor (outputs,) of the weight of each layer whose norm was folded; the ids of the parameters of the rest.
    """
    gains: dict[str, torch.Tensor] = {}
    live: set[int] = set()
    for name, path in plan.norms.items():
        if name in plan.live and tensors is None:
            parent, attribute = _locate(model, path)
            norm = LiveNorm(cast(nn.BatchNorm2d, getattr(parent, attribute)))
            setattr(parent, attribute, norm)
            live |= {id(parameter) for parameter in norm.parameters()}
        else:
            gains[name] = _fold(model, name, path, None if tensors is None else tensors.get(f"{name}{GAIN}"))
    return gains, live


def _fold(model: nn.Module, name: str, norm_path: str, gain_delta: torch.Tensor | None) -> torch.Tensor:
    """Multiply the batch normalization at `norm_path` into layer `name`; return the factor of the weight, (outputs,).

    It is gamma / sigma, and with `gain_delta` (outputs,) 1 + that much of it.
    """
    layer, norm = model.get_submodule(name), cast(nn.BatchNorm2d, model.get_submodule(norm_path))
    gain, shift = norm_affine(norm)
    weight, bias = cast(nn.Parameter, layer.weight), cast("nn.Parameter | None", layer.bias)
    factor = gain if gain_delta is None else gain * (1 + gain_delta.to(gain))
    weight.data = weight.data * factor.reshape(-1, *(1 for _ in weight.shape[1:]))
    layer.bias = nn.Parameter(shift if bias is None else bias.data * gain + shift)
    parent, attribute = _locate(model, norm_path)
    setattr(parent, attribute, nn.Identity())
    return factor
