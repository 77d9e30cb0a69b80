"""Attaching an adapter to a model for training.

Training runs on the folded graph: batch normalization is multiplied into the convolution before it, so the convolution
sees (W + scale * B @ A) * gamma / sigma and nothing runs beside it. What is frozen becomes a buffer, so that no trainer
can wake it and no optimizer, gradient clip or DDP bucket sees it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters.layers import Layer
from visionlora.adapters.plan import AdapterPlan
from visionlora.lowrank.shapes import check_shapes


class LowRank(nn.Module):
    """Parametrization W -> W + scale * (gain * B) @ A of one weight of shape (outputs, ...).

    Attributes:
        lora_A: (rank, ...) with the weight's other axes, uniform at the start (Kaiming, as in the LoRA paper's code).
        lora_B: (outputs, rank), zero at the start, so that the adapted model is the base.
        gain: (outputs, 1) factor gamma / sigma of the batch normalization folded into W, or None.
    """

    def __init__(self, layer: Layer, rank: int, scale: float, gain: torch.Tensor | None) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, *layer.shape[1:]))
        self.lora_B = nn.Parameter(torch.zeros(layer.outputs, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scale = scale
        self.ready: torch.Tensor | None = None  # set by WeightsTogether while it computes for all layers
        self.gain: torch.Tensor | None
        self.register_buffer("gain", None if gain is None else gain.reshape(-1, 1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the adapted weight, of the shape and memory format of `weight`, in float32 also under autocast."""
        if self.ready is not None:
            return self.ready
        with torch.autocast(weight.device.type, enabled=False):
            left = self.lora_B if self.gain is None else self.lora_B * self.gain
            return self.shaped(torch.addmm(self.matrix(weight), left, self.right(), alpha=self.scale))

    def right(self) -> torch.Tensor:
        """Return A as a matrix (rank, inputs)."""
        return self.matrix(self.lora_A)

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight, or A, as a matrix whose columns lie as in memory: no copy for either memory format."""
        return (weight.permute(0, 2, 3, 1) if self._channels_last() else weight).reshape(len(weight), -1)

    def shaped(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a matrix (outputs, inputs) in the shape of the weight."""
        shape = self.lora_A.shape[1:]
        if self._channels_last():
            return matrix.view(len(matrix), *shape[1:], shape[0]).permute(0, 3, 1, 2)
        return matrix.view(len(matrix), *shape)

    def _channels_last(self) -> bool:
        return self.lora_A.dim() == 4 and self.lora_A.is_contiguous(memory_format=torch.channels_last)


class TrainedBias(nn.Module):
    """Parametrization of a trained bias that changes nothing, so that all biases can be rounded together."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: torch.Tensor | None = None  # set by WeightsTogether while it computes for all layers

    def forward(self, bias: torch.Tensor) -> torch.Tensor:
        """Return the bias."""
        return bias if self.ready is None else self.ready


def attach(model: nn.Module, plan: AdapterPlan) -> None:
    """Fold, freeze and adapt `model` in place, as `plan` says; the output does not change until it is trained.

    Afterwards the only parameters of the model are the low-rank factors, the biases of adapted layers (if
    `train_bias`) and the layers trained whole.

    Example:
        >>> import torch
        >>> from visionlora.adapters import AdapterSettings, plan_adapter
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        >>> attach(model, plan_adapter(model, AdapterSettings(rank=2)))
        >>> sorted(name for name, _ in model.named_parameters())  # doctest: +NORMALIZE_WHITESPACE
        ['0.parametrizations.bias.original', '0.parametrizations.weight.0.lora_A',
         '0.parametrizations.weight.0.lora_B']
    """
    gains = {name: _fold(model, name, norm) for name, norm in plan.norms.items()}
    trained: set[int] = set()
    for layer in plan.whole:
        trained |= {id(parameter) for parameter in model.get_submodule(layer.name).parameters()}
    for layer in plan.adapted:
        owner, attribute = _locate(model, layer.weight)
        _to_buffer(owner, attribute)
        rank = layer.rank(plan.settings.rank)
        low_rank = LowRank(layer, rank, plan.settings.scale(rank), gains.get(layer.name))
        parametrize.register_parametrization(owner, attribute, low_rank.to(getattr(owner, attribute).device))
        trained |= {id(parameter) for parameter in low_rank.parameters()}
        bias = _bias(model, layer)
        if plan.settings.train_bias and bias is not None:
            owner.register_buffer(_FROZEN_BIAS.format(attribute), bias.detach().clone())
            bias_owner, bias_attribute = _locate(model, layer.bias)
            parametrize.register_parametrization(bias_owner, bias_attribute, TrainedBias())
            trained.add(id(bias))
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in trained:
                parameter.requires_grad_(True)
            else:
                _to_buffer(module, name)


def adapter_tensors(model: nn.Module, plan: AdapterPlan) -> dict[str, torch.Tensor]:
    """Return what was trained, as float32 on the CPU, under the names of the adapter file.

    `<layer>.lora_A.weight` (rank, in/groups, *kernel) and `<layer>.lora_B.weight` (out, rank, 1, ...) for a
    convolution, both of two axes for a matrix, as in PEFT; `<layer>.bias_delta` (out,), trained minus base;
    `<layer>.weight` and `<layer>.bias` of the layers trained whole.
    """
    tensors: dict[str, torch.Tensor] = {}
    for layer in plan.adapted:
        low_rank = _low_rank(model, layer)
        kernel = layer.shape[2:]
        tensors[f"{layer.name}.lora_A.weight"] = low_rank.lora_A
        tensors[f"{layer.name}.lora_B.weight"] = low_rank.lora_B.reshape(layer.outputs, -1, *(1 for _ in kernel))
        frozen = _frozen_bias(model, layer)
        if frozen is not None:
            tensors[f"{layer.name}.bias_delta"] = cast(torch.Tensor, _bias(model, layer)) - frozen
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            tensors[f"{layer.name}.{name}"] = parameter
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
        low_rank = _low_rank(model, layer)
        low_rank.lora_A.copy_(tensors[f"{layer.name}.lora_A.weight"])
        low_rank.lora_B.copy_(tensors[f"{layer.name}.lora_B.weight"].reshape(low_rank.lora_B.shape))
        frozen = _frozen_bias(model, layer)
        if frozen is not None:
            delta = tensors[f"{layer.name}.bias_delta"].to(frozen)
            cast(torch.Tensor, _bias(model, layer)).copy_(frozen + delta)
    for layer in plan.whole:
        for name, parameter in model.get_submodule(layer.name).named_parameters():
            parameter.copy_(tensors[f"{layer.name}.{name}"])


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


def _low_rank(model: nn.Module, layer: Layer) -> LowRank:
    owner, attribute = _locate(model, layer.weight)
    return cast(LowRank, cast(nn.ModuleDict, owner.parametrizations)[attribute][0])  # type: ignore[index]


def _to_buffer(module: nn.Module, name: str) -> None:
    tensor = getattr(module, name).detach()
    del module._parameters[name]
    module.register_buffer(name, tensor)


def _fold(model: nn.Module, name: str, norm_path: str) -> torch.Tensor:
    """Multiply the batch normalization at `norm_path` into layer `name`; return gamma / sigma, shape (outputs,)."""
    layer, norm = model.get_submodule(name), cast(nn.BatchNorm2d, model.get_submodule(norm_path))
    gain, shift = norm_affine(norm)
    weight, bias = cast(nn.Parameter, layer.weight), cast("nn.Parameter | None", layer.bias)
    weight.data = weight.data * gain.reshape(-1, *(1 for _ in weight.shape[1:]))
    layer.bias = nn.Parameter(shift if bias is None else bias.data * gain + shift)
    parent, attribute = _locate(model, norm_path)
    setattr(parent, attribute, nn.Identity())
    return gain


def norm_affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a frozen affine batch normalization does, y = gain * x + shift, as two (channels,) tensors."""
    mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    gain = norm.weight.detach() * torch.rsqrt(variance + norm.eps)
    return gain, norm.bias.detach() - mean * gain
