"""The weights and biases of a base with an adapter merged and folded in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters import AdapterSettings, ArrayAdapter, can_be_trained, scaled_channels
from visionlora.adapters.base_precision import FLOAT32, is_rounded, rounded_weight
from visionlora.adapters.shapes import (
    BIAS,
    GAIN,
    adapted_shapes,
    check_merges,
    check_shapes,
    is_of_method,
    layer_of,
    tensors_of,
)
from visionlora.cards import family_in
from visionlora.errors import AdapterError
from visionlora.patching.base import PatchableBase
from visionlora.tasks import task_on, task_words


def patched_weights(base: PatchableBase, adapter: ArrayAdapter) -> dict[str, NDArray[np.float32]]:
    """Return the exported tensors that the adapter changes, by their names in the checkpoint.

    They are what merging into the checkpoint and exporting would give, to the bit.

    Raises:
        AdapterError: the adapter is for another base, image size or activation, its tensors do not fit, or the base
            cannot be rounded here as it was.
    """
    fitting = fitted(base, adapter)
    method, tensors = adapter.card.settings.method, fitting.tensors
    patched: dict[str, NDArray[np.float32]] = {}
    for layer in fitting.adapted:
        before = rounded_weight(base.weights[layer], adapter.card.settings.base_precision)
        merged = method.merged(before, tensors_of(method, layer, before.shape, tensors))
        weight = scaled_channels(merged, tensors.get(f"{layer}{GAIN}"))
        trained = tensors.get(f"{layer}{BIAS}")
        norm = base.folded.norms.get(layer)
        patched[f"{layer}.weight"] = weight if norm is None else norm.fold(weight)
        if norm is not None:
            patched[f"{layer}.bias"] = norm.bias(trained)
        elif trained is not None:
            patched[f"{layer}.bias"] = base.biases[layer] + trained.astype(np.float32)
    for layer in fitting.whole:
        for part in ("weight", "bias"):
            patched[f"{layer}.{part}"] = tensors[f"{layer}.{part}"].astype(np.float32)
    broken = [name for name, tensor in patched.items() if not np.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{len(broken)} tensors are not finite with the adapter in, the first is {broken[0]}")
    return patched


@dataclass(frozen=True, eq=False)
class FittedAdapter:
    """What an adapter has for the layers of an exported base.

    Attributes:
        tensors: its tensors by their names in the file, without those of layers that the graph does not have.
        adapted: names of the layers that it adapts.
        whole: names of the class outputs that it brings.
    """

    tensors: Mapping[str, NDArray[np.floating]]
    adapted: tuple[str, ...]
    whole: tuple[str, ...]


def fitted(base: PatchableBase, adapter: ArrayAdapter) -> FittedAdapter:
    """Return what an adapter has for the layers of a base.

    Raises:
        AdapterError: the adapter is for another base, image size or activation, its tensors do not fit, or the base
            cannot be rounded here as it was.
    """
    card = adapter.card
    card.check_base(base.folded.fingerprint, str(base.path), family=family_in(base.card))
    if card.image_size != base.image_size:
        raise AdapterError(
            f"the adapter was trained at {card.image_size} px, but {base.path} takes {base.image_size} px; "
            f"export the base with --imgsz {card.image_size}"
        )
    found = task_on(base.card, str(base.path))
    if card.sized_task != found:
        raise AdapterError(
            f"the adapter is of task {task_words(card.sized_task)}, {base.path} of {task_words(found)}, and a patch "
            "does not change its outputs; merge and export it on the workstation"
        )
    if card.settings.relu_targets:
        raise AdapterError(
            f"the adapter was trained with --activation {card.settings.activation}, but {base.path} has the base's "
            "activations, which a patch does not change; merge, export and quantize it on the workstation"
        )
    if card.names != tuple(base.card["names"]) and not base.folded.class_outputs:
        raise AdapterError(
            f"the adapter finds other classes than {base.path}, and the graph of a {family_in(base.card)} detector is "
            "laid out for its own; merge and export it on the workstation"
        )
    whole, method = replaced_outputs(base, card.names), card.settings.method
    check_merges(method)
    layers = {name: layer_of(method, name) for name in adapter.tensors}
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if layers[name] not in base.folded.unused}
    given = {layers[name] for name in tensors if is_of_method(method, name) or name.endswith((BIAS, GAIN))}
    adapted = _adapted(base, card.settings.targets, given, whole)
    _check(base, adapter, tensors, adapted, whole)
    _check_rounding(base, card.settings, adapted)
    return FittedAdapter(tensors, tuple(adapted), whole)


def replaced_outputs(base: PatchableBase, names: Iterable[str]) -> tuple[str, ...]:
    """Return the class outputs that an adapter for `names` brings: none where the classes are the base's own."""
    same = [name.casefold() for name in names] == [name.casefold() for name in base.names]
    return () if same else base.folded.class_outputs


def _adapted(base: PatchableBase, targets: str, given: Set[str], whole: tuple[str, ...]) -> list[str]:
    """Return the adapted layers: all where the targets are all, else those that the file has tensors of.

    Raises:
        AdapterError: the file has tensors of a layer that the graph does not have as the checkpoint had it.
    """
    unknown = sorted(given - base.weights.keys())
    if unknown:
        raise AdapterError(
            f"the adapter changes {len(unknown)} layers that {base.path} does not have as the checkpoint had them, "
            f"such as {', '.join(unknown[:5])}; merge and export it instead"
        )
    return [layer for layer in base.weights if layer not in whole and (targets == "all" or layer in given)]


def _check_rounding(base: PatchableBase, settings: AdapterSettings, adapted: list[str]) -> None:
    """Refuse a base of which not every weight that was rounded in training can be rounded here.

    Raises:
        AdapterError: layers without an adapter would stay as they are; or there are channels that a norm has silenced:
            the graph does not hold their weights, which counted when others were rounded.
    """
    precision = settings.base_precision
    if precision == FLOAT32:
        return
    trained = f"the adapter was trained with --base-precision {precision}"
    instead = "merge and export it on the workstation"
    if settings.targets != "all":
        raise AdapterError(
            f"{trained} and --targets {settings.targets}: a patch does not round the other layers; {instead}"
        )
    silent = [
        layer
        for layer in adapted
        if is_rounded(base.weights[layer].shape, precision)
        if layer in base.folded.norms and not base.folded.norms[layer].gain.all()
    ]
    if silent:
        raise AdapterError(
            f"{trained}, and {len(silent)} layers of {base.path}, such as {silent[0]}, have channels that their "
            f"normalization silences, which the graph does not hold to be rounded; {instead}"
        )


def _check(
    base: PatchableBase,
    adapter: ArrayAdapter,
    tensors: dict[str, NDArray[np.floating]],
    adapted: list[str],
    whole: tuple[str, ...],
) -> None:
    settings, classes = adapter.card.settings, len(adapter.card.names)
    expected: dict[str, tuple[int, ...]] = {}
    for layer in adapted:
        shape, norm = base.weights[layer].shape, base.folded.norms.get(layer)
        live = settings.normalization == "live" and norm is not None and can_be_trained(norm.gain)
        expected |= adapted_shapes(settings.method, layer, shape, bias=settings.train_bias, gain=live)
    for layer in whole:
        expected[f"{layer}.weight"] = (classes, *base.weights[layer].shape[1:])
        expected[f"{layer}.bias"] = (classes,)
    check_shapes(expected, tensors)
