"""An adapter that LyCORIS trained, as this project holds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from visionlora.adapters.card import AdapterSettings
from visionlora.adapters.methods import IA3, DoRA, LoHa, LoKr, LoRA
from visionlora.adapters.shapes import check_shapes, method_tensor
from visionlora.adapters.torch.imported import Change, PlanFor, held_changes, row_norms, targets_of
from visionlora.adapters.torch.layers import Layer, SkippedLayer
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.adapters.torch.plan import AdapterPlan
from visionlora.errors import AdapterError

PREFIX = "lycoris_"
"""Begins the name of a module; the layer's own follows, with underscores for its dots."""
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Read:
    """What a file says of one layer.

    Attributes:
        adapted: the weight that results.
        factors: B with its scale (outputs, rank) and A (rank, inputs x kernel), where they are what is added.
        magnitude: the norm of each output's weights that DoRA trained, (outputs,).
        method: the one of ours that has the same tensors.
        own: those tensors by their short names.
        strength: what their product counts.
        bias: what is added to the bias, (outputs,).
    """

    adapted: torch.Tensor
    factors: tuple[torch.Tensor, torch.Tensor] | None = None
    magnitude: torch.Tensor | None = None
    method: type[LoHa | LoKr | IA3] | None = None
    own: Mapping[str, torch.Tensor] | None = None
    strength: float = 1.0
    bias: torch.Tensor | None = None


@torch.no_grad()
def from_lycoris(
    model: nn.Module, everything: AdapterPlan, tensors: Mapping[str, torch.Tensor], plan_for: PlanFor
) -> tuple[AdapterSettings, dict[str, torch.Tensor]]:
    """Return settings and tensors of the adapter that a file of LyCORIS holds.

    LoCon and LoRA stay factors, also with a core (`use_tucker`) and with a norm of each output (`dora_wd`). LoHa, LoKr
    and IA3 stay what they are if all layers have the shapes that such an adapter has here. What else there is, or
    where a file mixes them, is kept at full rank (`held_changes`).

    Args:
        model: the base as it was loaded.
        everything: plan of an adapter of all layers of this model.
        tensors: of the file.
        plan_for: returns the plan of this model under other settings.

    Raises:
        AdapterError: the file has modules or tensors that belong to none of these, or the classes are not the base's.
    """
    if everything.whole:
        raise AdapterError(
            "expected --data with the classes of the base, in their order: LyCORIS keeps no new class outputs; give "
            "the checkpoint that it was trained on as --model"
        )
    layers = {layer.name.replace(".", "_"): layer for layer in everything.adapted}
    modules: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        module, _, part = name.partition(".")
        modules.setdefault(module.removeprefix(PREFIX), {})[part] = tensor.float().cpu()
    for skipped in everything.skipped:
        parts = modules.pop(skipped.name.replace(".", "_"), None)
        if parts is not None:
            _check_unchanged(model, skipped, parts)
    unknown = sorted(modules.keys() - layers.keys())
    if unknown or not modules:
        found = f"{len(unknown)} others, such as {', '.join(unknown[:3])}" if unknown else "none"
        raise AdapterError(
            f"expected modules of the base's layers, {PREFIX}{next(iter(layers))} and so on, got {found}"
        )
    reads = {layers[name]: _read(model, layers[name], parts) for name, parts in modules.items()}
    return _as_they_are(model, reads, plan_for) or _as_lora(model, everything, reads, plan_for)


def _check_unchanged(model: nn.Module, skipped: SkippedLayer, parts: Parts) -> None:
    """Refuse a change of a layer that no adapter changes.

    Raises:
        AdapterError: there is one.
    """
    weight = model.state_dict()[f"{skipped.name}.weight"].float().cpu()
    layer = Layer(skipped.name, f"{skipped.name}.weight", f"{skipped.name}.bias", tuple(weight.shape))
    read = _read(model, layer, parts)
    if not torch.equal(read.adapted, weight):
        raise AdapterError(
            f"{skipped.name}: changed, but no adapter here can change it ({skipped.reason}); leave it out of the "
            "training with LyCORIS (exclude_name)"
        )


def _as_they_are(
    model: nn.Module, reads: Mapping[Layer, _Read], plan_for: PlanFor
) -> tuple[AdapterSettings, dict[str, torch.Tensor]] | None:
    """Return an adapter of LoHa, LoKr or IA3; None where an adapter here has other shapes, or they are mixed."""
    kinds = {read.method for read in reads.values()}
    kind = kinds.pop()
    if kind is None or kinds:
        return None
    owns = {layer: read.own or {} for layer, read in reads.items()}
    method = kind() if issubclass(kind, IA3) else kind(rank=max(map(_rank, owns.values())))
    made: dict[str, torch.Tensor] = {}
    for layer, own in owns.items():
        shapes = method.shapes(layer.shape)
        if shapes != {name: tuple(tensor.shape) for name, tensor in own.items()}:
            return None
        if not isinstance(method, IA3):  # its scale is one for all layers: the rest is the first factor's
            first = method.tensors[0]
            own = {**own, first: own[first] * (reads[layer].strength / method.scale(_rank(own)))}
        made |= {method_tensor(layer.name, name): tensor for name, tensor in own.items()}
    settings = AdapterSettings(method, targets=targets_of(reads), train_bias=False)
    check_shapes(expected_shapes(model, plan_for(settings)), made)
    return settings, made


def _as_lora(
    model: nn.Module, everything: AdapterPlan, reads: Mapping[Layer, _Read], plan_for: PlanFor
) -> tuple[AdapterSettings, dict[str, torch.Tensor]]:
    """Return an adapter of LoRA, or of DoRA where every layer with factors has a norm of each output."""
    factored = [read for read in reads.values() if read.factors is not None]
    kind = DoRA if factored and all(read.magnitude is not None for read in factored) else LoRA
    changes = {layer: Change() for layer in everything.adapted}
    for layer, read in reads.items():
        weight = model.get_parameter(layer.weight).float().cpu()
        norms = row_norms(weight)
        if read.factors is not None and (kind is DoRA) == (read.magnitude is not None):
            left, right = read.factors
            change = _relative(read.magnitude, norms) if read.magnitude is not None else None
            changes[layer] = Change(right=right, left=left, magnitude=change, bias=read.bias)
        else:
            change = _relative(row_norms(read.adapted), norms) if kind is DoRA else None
            changes[layer] = Change(full=read.adapted - weight, magnitude=change, bias=read.bias)
    return held_changes(model, kind, changes, {}, plan_for)


def _read(model: nn.Module, layer: Layer, parts: Parts) -> _Read:
    """Return what the tensors of one module say.

    Raises:
        AdapterError: they are of another form, or do not fit the layer.
    """
    weight = model.state_dict()[layer.weight].float().cpu()
    reader = next((reader for name, reader in _READERS.items() if name in parts), None)
    left = dict(parts)
    try:
        if reader is not None:
            read = reader(weight, left)
            if not left and read.adapted.shape == weight.shape:
                return read
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        pass  # shapes that do not fit each other, or a part is missing
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(parts.items()))
    raise AdapterError(
        f"{layer.name}: expected LoCon, LoHa, LoKr, IA3 or a full change of a weight {layer.shape}, as LyCORIS saves "
        f"them, got {shapes:.300}"
    )


def _locon(weight: torch.Tensor, parts: Parts) -> _Read:
    up, down, core = parts.pop("lora_up.weight"), parts.pop("lora_down.weight"), parts.pop("lora_mid.weight", None)
    left, right = up.flatten(1) * _strength(parts, len(down)), down.flatten(1)
    if core is not None:
        _check(core.shape[:2] == (left.shape[1], len(right)))
        right = torch.einsum("ij...,jn->in...", core, right).flatten(1)
    return _decomposed(weight, _product(left, right, weight).reshape(weight.shape), parts, factors=(left, right))


def _loha(weight: torch.Tensor, parts: Parts) -> _Read:
    own = {name: parts.pop(name) for name in LoHa.tensors}
    cores = [parts.pop(name, None) for name in ("hada_t1", "hada_t2")]
    strength = _strength(parts, len(own["hada_w1_b"]))
    first, second = (
        _product(own[f"{name}_a"], own[f"{name}_b"], weight) if core is None else _rebuilt(core, own, name, weight)
        for name, core in zip(("hada_w1", "hada_w2"), cores, strict=True)
    )
    change = (first * second * strength).reshape(weight.shape)
    plain = cores == [None, None] and "dora_scale" not in parts
    if plain:
        return _Read(weight + change, method=LoHa, own=own, strength=strength)
    return _decomposed(weight, change, parts)


def _lokr(weight: torch.Tensor, parts: Parts) -> _Read:
    factors = {name: parts.pop(name) for name in list(parts) if name.startswith("lokr_")}
    ranks = [len(factors[name]) for name in ("lokr_w2_b", "lokr_w1_b") if name in factors]
    strength = _strength(parts, ranks[0]) if ranks else 1.0  # two whole matrices have none
    if not ranks:
        parts.pop("alpha", None)
    small = factors.get("lokr_w1")
    if small is None:
        small = _product(factors["lokr_w1_a"], factors["lokr_w1_b"], weight)
    core, plain = factors.get("lokr_t2"), "lokr_w2_a" in factors and "dora_scale" not in parts
    if "lokr_w2" in factors:
        large = factors["lokr_w2"].flatten(1)
    elif core is None:
        large = _product(factors["lokr_w2_a"], factors["lokr_w2_b"].flatten(1), weight)
    else:
        large = _rebuilt(core, factors, "lokr_w2", weight).flatten(1)
    _check(small.numel() * large.numel() == weight.numel())
    wide = large.reshape(len(large), -1, *weight.shape[2:])
    change = torch.kron(small.reshape(*small.shape, *(1 for _ in weight.shape[2:])), wide.contiguous()) * strength
    if plain and core is None:
        own = {"lokr_w1": small, "lokr_w2_a": factors["lokr_w2_a"], "lokr_w2_b": factors["lokr_w2_b"].flatten(1)}
        return _Read(weight + change, method=LoKr, own=own, strength=strength)
    return _decomposed(weight, change, parts)


def _ia3(weight: torch.Tensor, parts: Parts) -> _Read:
    scale = parts.pop("weight").flatten()
    if parts.pop("on_input"):
        _check(len(scale) == weight.shape[1])
        return _Read(weight * (1 + scale).reshape(1, -1, *(1 for _ in weight.shape[2:])))
    _check(len(scale) == len(weight))
    adapted = weight * (1 + scale).reshape(-1, *(1 for _ in weight.shape[1:]))
    return _Read(adapted, method=IA3, own={"ia3_delta": scale})


def _full(weight: torch.Tensor, parts: Parts) -> _Read:
    return _Read(weight + parts.pop("diff").reshape(weight.shape), bias=parts.pop("diff_b", None))


_READERS: Mapping[str, Callable[[torch.Tensor, Parts], _Read]] = {
    "lora_up.weight": _locon,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "on_input": _ia3,
    "diff": _full,
}
"""By a tensor that each form has and no other; a reader takes what it uses out of the parts."""


def _decomposed(
    weight: torch.Tensor,
    change: torch.Tensor,
    parts: Parts,
    *,
    factors: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> _Read:
    """Return a changed weight, whose norms are `dora_scale` where there is one: of each output, or of each input."""
    turned, norms = weight + change, parts.pop("dora_scale", None)
    if norms is None:
        return _Read(turned, factors)
    if norms.shape[0] == norms.numel() == len(weight):
        adapted = turned * (norms.flatten() / row_norms(turned)).reshape(-1, *(1 for _ in weight.shape[1:]))
        return _Read(adapted, factors, norms.flatten())
    _check(norms.numel() == weight.shape[1])
    columns = turned.transpose(0, 1).flatten(1).norm(dim=1)
    return _Read(turned * (norms.flatten() / columns).reshape(1, -1, *(1 for _ in weight.shape[2:])))


def _product(left: torch.Tensor, right: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the product of two matrices; one with more numbers than the weight, which takes memory, is refused."""
    _check(len(left) * right.shape[1] <= weight.numel())
    return left @ right


def _rebuilt(core: torch.Tensor, factors: Mapping[str, torch.Tensor], name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return the product of a core (rank, rank, kernel...) with a (rank, outputs) and b (rank, inputs)."""
    left, right = factors[f"{name}_a"], factors[f"{name}_b"]
    _check(core.shape[:2] == (len(left), len(right)))  # or it would be repeated
    _check(left.shape[1] * right.shape[1] * core[0, 0].numel() <= weight.numel())
    return torch.einsum("ij...,ip,jr->pr...", core, left, right)


def _check(fits: bool) -> None:
    """Raise the error that `_read` explains, where shapes do not fit."""
    if not fits:
        raise ValueError


def _strength(parts: Parts, rank: int) -> float:
    """Return alpha / rank; a file without alpha has as much as the rank."""
    alpha = parts.pop("alpha", None)
    return 1.0 if alpha is None else float(alpha) / rank


def _rank(own: Mapping[str, torch.Tensor]) -> int:
    """Return the rank of tensors of LoHa or LoKr."""
    return len(own["hada_w1_b"] if "hada_w1_b" in own else own["lokr_w2_b"])


def _relative(norms: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the relative change of norms; none where a channel was silent."""
    return torch.where(before > 0, norms / before - 1, torch.zeros_like(before))
