"""An adapter in PEFT's terms: factors where PEFT has such layers, and modules saved whole where it has not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from visionlora.adapters.arithmetic import ordered_norms
from visionlora.adapters.methods import DoRA, LoRA
from visionlora.adapters.shapes import BIAS, GAIN, check_shapes, tensors_of
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.adapters.torch.norms import norm_affine
from visionlora.adapters.torch.plan import AdapterPlan
from visionlora.errors import UsageError

PREFIX = "base_model.model."
"""PEFT's names begin so, whatever the model."""


@dataclass(frozen=True)
class PeftAdapter:
    """What PEFT reads.

    Attributes:
        config: of `adapter_config.json`.
        tensors: of `adapter_model.safetensors`.
        factors: names of the layers with factors.
        whole: names of the modules that are saved whole.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    factors: tuple[str, ...]
    whole: tuple[str, ...]


@torch.no_grad()
def peft_adapter(model: nn.Module, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> PeftAdapter:
    """Return an adapter as PEFT reads it.

    What PEFT's LoRA cannot hold is saved whole: grouped layers, layers at full rank, layers with a trained bias of
    their own, batch normalizations with a trained shift (or scale), and class outputs.

    Args:
        model: the base as it was loaded, with the class outputs that the adapter brings.
        plan: of this model.
        tensors: of the adapter.

    Raises:
        AdapterError: the tensors do not fit the plan.
        UsageError: the adapter is of a method that this does not write.
    """
    method = plan.settings.method
    if not isinstance(method, LoRA | DoRA):
        raise UsageError(f"--format peft: expected an adapter of the method lora or dora, got {method.name}; merge it")
    check_shapes(expected_shapes(model, plan), tensors)
    written: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    whole: dict[str, Mapping[str, torch.Tensor]] = {}
    for layer in plan.adapted:
        own = tensors_of(method, layer.name, layer.shape, tensors)
        module, norm = model.get_submodule(layer.name), plan.norms.get(layer.name)
        bias = tensors.get(f"{layer.name}{BIAS}")
        if "lora_A" in own and getattr(module, "groups", 1) == 1 and (bias is None or norm is not None):
            ranks[layer.name] = len(own["lora_A"])
            written |= _factors(method, module, layer.name, own)
        else:
            whole[layer.name] = _adapted_state(method, module, own, bias if norm is None else None)
        if norm is not None and bias is not None:
            whole[norm] = _norm_state(
                cast(nn.BatchNorm2d, model.get_submodule(norm)), bias, tensors.get(f"{layer.name}{GAIN}")
            )
    for layer in plan.whole:
        whole[layer.name] = _trained_state(model, layer, tensors)
    for name, state in whole.items():
        written |= {f"{PREFIX}{name}.{part}": tensor for part, tensor in state.items()}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,  # a name would be looked up on the network
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "use_rslora": True,
        "use_dora": isinstance(method, DoRA),
        "bias": "none",
        "target_modules": sorted(ranks),
        "rank_pattern": {re.escape(name): rank for name, rank in ranks.items() if rank != method.rank},
        "modules_to_save": sorted(whole),
    }
    held = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in written.items()
    }
    return PeftAdapter(config, held, tuple(sorted(ranks)), tuple(sorted(whole)))


def _factors(
    method: LoRA | DoRA, module: nn.Module, name: str, own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    found = {f"{PREFIX}{name}.{part}.weight": own[part].float() for part in ("lora_A", "lora_B")}
    if isinstance(method, DoRA):
        weight = cast(torch.Tensor, module.weight)
        norms = torch.from_numpy(ordered_norms(weight.float().cpu().numpy()))
        magnitude = (norms * (1 + own["magnitude_delta"].double().cpu())).float()
        shape = (1, -1, *(1 for _ in weight.shape[2:])) if weight.dim() > 2 else (-1,)
        found[f"{PREFIX}{name}.lora_magnitude_vector"] = magnitude.reshape(shape)
    return found


def _adapted_state(
    method: LoRA | DoRA, module: nn.Module, own: Mapping[str, torch.Tensor], bias: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return the state of a layer with its adapted weight, and its bias where that was trained."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    arrays = {name: tensor.cpu().numpy() for name, tensor in own.items()}
    state["weight"] = torch.from_numpy(method.merged(state["weight"].float().cpu().numpy(), arrays))
    if bias is not None:
        state["bias"] = state["bias"].float().cpu() + bias.float().cpu()
    return state


def _norm_state(norm: nn.BatchNorm2d, bias: torch.Tensor, gain_delta: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the state of a batch normalization whose shift, and scale where that was trained, are the adapter's."""
    state = {name: tensor.clone().cpu() for name, tensor in norm.state_dict().items()}
    state["bias"] = state["bias"].float() + bias.float().cpu()
    if gain_delta is not None:  # what the adapter scales is in front of the statistics' mean
        gain, change = norm_affine(norm)[0].float().cpu(), gain_delta.float().cpu()
        state["weight"] = state["weight"].float() * (1 + change)
        state["bias"] = state["bias"] + state["running_mean"].float() * gain * change
    return state


def _trained_state(model: nn.Module, layer: Layer, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    module = model.get_submodule(layer.name)
    return {name: tensors[f"{layer.name}.{name}"].float() for name, _ in module.named_parameters()}
