"""What to adapt and how: the plan that the settings of a user make for one model."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import is_rounded
from visionlora.adapters.methods import Addition, InputSite, Site
from visionlora.adapters.torch.layers import Layer, SkippedLayer, adaptable_layers, transposed_layers
from visionlora.adapters.torch.norms import can_live
from visionlora.errors import UsageError


@dataclass(frozen=True)
class AdapterPlan:
    """Which layers of one model are adapted, trained whole, or left as they are.

    Attributes:
        settings: the settings that the plan was made from.
        adapted: layers with low-rank factors.
        whole: layers that are trained whole: new outputs, and new layers before them.
        skipped: layers left as they are, each with the reason.
        norms: dotted path of the batch normalization behind a layer, by layer name; it is folded for training, but
            where it is live.
        live: names of the adapted layers whose batch normalization is trained along.
        rounded: layers, adapted or skipped, whose frozen weight is rounded to the base's precision.
        sites: where the method adds modules; none where it changes weights.
    """

    settings: AdapterSettings
    adapted: tuple[Layer, ...]
    whole: tuple[Layer, ...]
    skipped: tuple[SkippedLayer, ...]
    norms: Mapping[str, str]
    live: frozenset[str] = frozenset()
    rounded: tuple[Layer, ...] = ()
    sites: tuple[Site, ...] = ()

    @property
    def words(self) -> str:
        """How many layers are adapted, and by what."""
        how = f"by their biases, {len(self.sites)} {self.settings.method.words}" if self.sites else ""
        return f"{len(self.adapted)} layers {how or self.settings.method.words}"


def plan_adapter(
    model: nn.Module,
    settings: AdapterSettings,
    *,
    norms: Mapping[str, str] | None = None,
    whole: Collection[str] = (),
    constants: Mapping[str, str] | None = None,
    groups: Callable[[str, str], bool | None] | None = None,
    sites: Sequence[Site] = (),
) -> AdapterPlan:
    """Decide for every layer of `model` whether it is adapted, trained whole or skipped.

    Args:
        model: any module, not yet adapted.
        settings: rank, alpha, targets, bias.
        norms: path of the (affine) batch normalization that follows a layer, by layer name.
        whole: names of the layers to train whole.
        constants: names of layers that must never be trained, with the reason.
        groups: `(word, layer name) -> bool`, or None where the word is no group name of this model.
        sites: where the method can add modules in this model; those with a layer among the targets count.

    Raises:
        UsageError: the targets match no layer, none where the method can add anything, or one where its modules do not
            fit, or are not a valid regular expression.
    """
    constants = constants or {}
    layers, skipped_list = adaptable_layers(model)
    skipped = list(skipped_list)
    chosen = layer_selector(settings.targets, groups)
    adapted = []
    for layer in layers:
        if layer.name in whole:
            continue
        if layer.name in constants:
            skipped.append(SkippedLayer(layer.name, constants[layer.name]))
        elif chosen(layer.name):
            adapted.append(layer)
        else:
            skipped.append(SkippedLayer(layer.name, f"not in targets {settings.targets!r}"))
    if not adapted:
        known = ", ".join(layer.name for layer in layers[:5]) or "none"
        raise UsageError(f"--targets {settings.targets!r} match no layer; the model's layers begin with: {known}")
    transposed = transposed_layers(model, whole)
    trained_whole = (*(layer for layer in layers if layer.name in whole), *transposed)
    skipped = [layer for layer in skipped if layer.name not in {each.name for each in transposed}]
    norms = dict(norms or {})
    live = frozenset(
        layer.name
        for layer in adapted
        if settings.normalization == "live"
        and layer.name in norms
        and can_live(model.get_submodule(norms[layer.name]))
        and getattr(model.get_submodule(layer.name), "bias", None) is None
    )
    rounded = tuple(
        layer
        for layer in layers
        if layer.name not in whole and layer.name not in constants and is_rounded(layer.shape, settings.base_precision)
    )
    used = _sites_among(sites, adapted)
    if isinstance(settings.method, Addition) and not used:
        raise UsageError(
            f"--method {settings.method.name}: expected {settings.method.place} among --targets {settings.targets!r}, "
            f"got {'targets without one' if sites else 'a base that has none'}; choose other "
            f"{'--targets' if sites else 'methods, such as lora'}"
        )
    with torch.device("meta"):
        for site in used:  # what does not fit there is known now, and costs nothing
            cast(Addition, settings.method).parts(site)
    return AdapterPlan(settings, tuple(adapted), trained_whole, tuple(skipped), norms, live, rounded, used)


def _sites_among(sites: Sequence[Site], adapted: Sequence[Layer]) -> tuple[Site, ...]:
    """Return the sites that are an adapted layer or hold one, and the images."""
    names = [f"{layer.name}." for layer in adapted]
    return tuple(
        site for site in sites if isinstance(site, InputSite) or any(name.startswith(f"{site.name}.") for name in names)
    )


def full_rank_limit(plan: AdapterPlan, numbers: int) -> int:
    """Return up to how many weights layers can be adapted at full rank, if so many numbers may be trained in all.

    Small layers come first: there a given number of parameters gives the most freedom.

    Args:
        plan: of a method that keeps factors for larger layers.
        numbers: of parameters, with those of biases, live norms and layers trained whole.

    Raises:
        UsageError: the plan without any such layer trains more than that.
    """
    small: Any = replace(plan.settings.method, full=0)  # type: ignore[type-var]
    costs = sorted(
        (layer.outputs * layer.inputs, sum(math.prod(shape) for shape in small.shapes(layer.shape).values()))
        for layer in plan.adapted
    )
    biases = sum(
        layer.outputs * (2 if layer.name in plan.live else int(plan.settings.train_bias)) for layer in plan.adapted
    )
    whole = sum(layer.outputs * (layer.inputs + 1) for layer in plan.whole)
    least = biases + whole + sum(factors for _, factors in costs)
    if least > numbers:
        raise UsageError(
            f"--budget: expected at least {least:,} parameters for these layers and this rank, got {numbers:,}; "
            "allow more, lower --rank, or name fewer --targets"
        )
    limit, spent = 0, least
    for size, layers in itertools.groupby(costs, key=lambda cost: cost[0]):
        spent += sum(size - factors for _, factors in layers)
        if spent > numbers:
            break
        limit = size
    return limit


def layer_selector(targets: str, groups: Callable[[str, str], bool | None] | None) -> Callable[[str], bool]:
    """Turn the targets text into a predicate on layer names.

    Raises:
        UsageError: it is neither a group of layers nor a regular expression.
    """
    targets = targets.strip()
    if targets == "all":
        return lambda name: True
    words = targets.split("+")
    if groups and all(groups(word, "") is not None for word in words):
        return lambda name: any(groups(word, name) for word in words)
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise UsageError(
            f"--targets {targets!r}: neither a group of layers nor a regular expression: {error}"
        ) from error
    return lambda name: pattern.fullmatch(name) is not None
