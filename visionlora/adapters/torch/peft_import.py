"""An adapter that PEFT trained, as this project holds one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from visionlora.adapters.card import AdapterSettings
from visionlora.adapters.methods import DoRA, LoRA
from visionlora.adapters.torch.imported import Change, PlanFor, held_changes, row_norms
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.norms import norm_affine
from visionlora.adapters.torch.peft import PREFIX
from visionlora.adapters.torch.plan import AdapterPlan
from visionlora.errors import AdapterError

_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_SAME = 1e-6  # relative change that is rounding


@torch.no_grad()
def from_peft(
    model: nn.Module,
    everything: AdapterPlan,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    plan_for: PlanFor,
) -> tuple[AdapterSettings, dict[str, torch.Tensor]]:
    """Return settings and tensors of the adapter that PEFT's files of LoRA or DoRA hold.

    What is kept as factors and what at full rank, `held_changes` says; a layer saved whole is a full change.

    Args:
        model: the base as it was loaded, with the class outputs of the files.
        everything: plan of an adapter of all layers of this model.
        config: of `adapter_config.json`.
        tensors: of `adapter_model.safetensors`.
        plan_for: returns the plan of this model under other settings.

    Raises:
        AdapterError: the files are of another method, or hold what an adapter here has no form for.
    """
    if config.get("peft_type") != "LORA" or config.get("lora_bias"):
        found = "lora_bias" if config.get("lora_bias") else f"peft_type {config.get('peft_type')!r:.40}"
        raise AdapterError(f"adapter_config.json: expected peft_type 'LORA' without lora_bias, got {found}")
    given = {name.removeprefix(PREFIX): tensor.float().cpu() for name, tensor in tensors.items()}
    kind = DoRA if config.get("use_dora") else LoRA
    used: set[str] = set()
    changes = {
        layer: _change(model, layer, everything.norms.get(layer.name), config, given, used)
        for layer in everything.adapted
    }
    outputs = [f"{layer.name}.{part}" for layer in everything.whole for part in ("weight", "bias")]
    _check_used(model, given, used.union(outputs))
    missing = sorted(name for name in outputs if name not in given)
    if missing:
        raise AdapterError(f"adapter_model.safetensors: expected the class outputs {missing[0]}, found none")
    return held_changes(model, kind, changes, {name: given[name] for name in outputs}, plan_for)


def _change(
    model: nn.Module,
    layer: Layer,
    norm: str | None,
    config: Mapping[str, Any],
    given: Mapping[str, torch.Tensor],
    used: set[str],
) -> Change:
    """Return what the files say of one layer; the names that were read are added to `used`."""
    module = model.get_submodule(layer.weight.rpartition(".")[0])
    weight = model.get_parameter(layer.weight).float().cpu()
    names = {part: f"{layer.name}{part}" for part in (*_FACTORS, ".weight", ".bias")}
    found = {part: given[name] for part, name in names.items() if name in given}
    used |= {names[part] for part in found}
    right, left, full, magnitude, bias, gain = (None,) * 6
    norms = row_norms(weight)
    if _FACTORS[0] in found:
        if getattr(module, "groups", 1) != 1:
            raise AdapterError(f"{layer.name}: grouped; PEFT's factors mix its groups, which its weight cannot")
        right = found[_FACTORS[0]].flatten(1)
        left = found[_FACTORS[1]].flatten(1) * _scale(layer.name, len(right), config)
        vector = found.get(_FACTORS[2], found.get(_FACTORS[3]))
        magnitude = None if vector is None else vector.flatten() / norms - 1
    elif ".weight" in found:
        full = found[".weight"] - weight
        if config.get("use_dora"):
            magnitude = row_norms(found[".weight"]) / norms - 1
    own = getattr(module, "bias", None)
    if ".bias" in found and own is not None:
        bias = found[".bias"] - own.float().cpu()
    if norm is not None:
        gain, moved = _norm_change(cast(nn.BatchNorm2d, model.get_submodule(norm)), norm, given, used)
        bias = moved if moved is not None else bias
    return Change(right, left, full, magnitude, bias, gain)


def _norm_change(
    norm: nn.BatchNorm2d, name: str, given: Mapping[str, torch.Tensor], used: set[str]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the relative change of a batch normalization's gain, if more than rounding, and that of its shift."""
    state = {part: tensor.float().cpu() for part, tensor in norm.state_dict().items()}
    own = {part: given[f"{name}.{part}"] for part in state if f"{name}.{part}" in given}
    used |= {f"{name}.{part}" for part in own}
    if not own:
        return None, None
    changed = nn.BatchNorm2d(norm.num_features, norm.eps)
    changed.load_state_dict({**state, **own})
    before, shift = (each.float().cpu() for each in norm_affine(norm))
    after, moved = norm_affine(changed)
    gain = after / before - 1
    return (gain if bool((gain.abs() > _SAME).any()) else None), moved - shift


def _scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return what PEFT multiplies B @ A with."""
    patterns = config.get("alpha_pattern") or {}
    own = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), None)
    alpha = config["lora_alpha"] if own is None else own
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _check_used(model: nn.Module, given: Mapping[str, torch.Tensor], used: Iterable[str]) -> None:
    """Refuse tensors that belong to no layer and are not what the base has.

    Raises:
        AdapterError: there are some.
    """
    state = model.state_dict()
    left = given.keys() - set(used)
    same = {name for name in left & state.keys() if torch.equal(state[name].float().cpu(), given[name])}
    other = sorted(left - same)
    if other:
        raise AdapterError(
            f"adapter_model.safetensors: {len(other)} tensors belong to no layer that an adapter changes, such as "
            f"{', '.join(other[:3])}"
        )
