"""An adapter that PEFT trained, as this project holds one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from visionlora.adapters.arithmetic import ordered_norms
from visionlora.adapters.card import AdapterSettings
from visionlora.adapters.methods import DoRA, LoRA
from visionlora.adapters.shapes import BIAS, GAIN, check_shapes, layer_rank, method_tensor
from visionlora.adapters.torch.layers import Layer
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.adapters.torch.norms import norm_affine
from visionlora.adapters.torch.peft import PREFIX
from visionlora.adapters.torch.plan import AdapterPlan
from visionlora.errors import AdapterError

_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_SAME = 1e-6  # relative change that is rounding


@dataclass(frozen=True, eq=False)
class _Change:
    """What becomes of one layer: factors with the scale in B, a full change, or neither; magnitude, bias and gain."""

    right: torch.Tensor | None = None
    left: torch.Tensor | None = None
    full: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    gain: torch.Tensor | None = None


@torch.no_grad()
def from_peft(
    model: nn.Module,
    everything: AdapterPlan,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    plan_for: Callable[[AdapterSettings], AdapterPlan],
) -> tuple[AdapterSettings, dict[str, torch.Tensor]]:
    """Return settings and tensors of the adapter that PEFT's files of LoRA or DoRA hold.

    Factors stay factors where an adapter here has such in their layer. Where it has not (a layer too small for the
    rank, a layer saved whole), the change is kept at full rank, and so is that of every layer of up to its size.

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
    chosen = [layer for layer, change in changes.items() if any(part is not None for part in vars(change).values())]
    if not chosen:
        raise AdapterError("adapter_model.safetensors: expected factors or saved modules of layers, found none")
    settings = _settings(kind, chosen, changes)
    plan = plan_for(settings)
    made = {name: given.get(name) for name in outputs}
    missing = sorted(name for name, tensor in made.items() if tensor is None)
    if missing:
        raise AdapterError(f"adapter_model.safetensors: expected the class outputs {missing[0]}, found none")
    expected = expected_shapes(model, plan)
    for layer in plan.adapted:
        made |= _tensors(plan, layer, changes[layer], bias=f"{layer.name}{BIAS}" in expected)
    held = {name: cast(torch.Tensor, tensor).float().clone() for name, tensor in made.items()}
    check_shapes(expected, held)
    return settings, held


def _change(
    model: nn.Module,
    layer: Layer,
    norm: str | None,
    config: Mapping[str, Any],
    given: Mapping[str, torch.Tensor],
    used: set[str],
) -> _Change:
    """Return what the files say of one layer; the names that were read are added to `used`."""
    module = model.get_submodule(layer.weight.rpartition(".")[0])
    weight = model.get_parameter(layer.weight).float().cpu()
    names = {part: f"{layer.name}{part}" for part in (*_FACTORS, ".weight", ".bias")}
    found = {part: given[name] for part, name in names.items() if name in given}
    used |= {names[part] for part in found}
    right, left, full, magnitude, bias, gain = (None,) * 6
    norms = torch.from_numpy(ordered_norms(weight.numpy())).float()
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
            magnitude = torch.from_numpy(ordered_norms(found[".weight"].numpy())).float() / norms - 1
    own = getattr(module, "bias", None)
    if ".bias" in found and own is not None:
        bias = found[".bias"] - own.float().cpu()
    if norm is not None:
        gain, moved = _norm_change(cast(nn.BatchNorm2d, model.get_submodule(norm)), norm, given, used)
        bias = moved if moved is not None else bias
    return _Change(right, left, full, magnitude, bias, gain)


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


def _settings(kind: type[LoRA | DoRA], chosen: Iterable[Layer], changes: Mapping[Layer, _Change]) -> AdapterSettings:
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
        targets="|".join(re.escape(layer.name) for layer in chosen),
        train_bias=any(change.bias is not None for change in held),
        normalization="live" if any(change.gain is not None for change in held) else "frozen",
    )


def _tensors(plan: AdapterPlan, layer: Layer, change: _Change, *, bias: bool) -> dict[str, torch.Tensor]:
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
