"""Whether adapters can be added: of one base, with the same classes, preprocessing and layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.card import AdapterCard
from visionlora.adapters.file import ArrayAdapter
from visionlora.adapters.methods import Summable
from visionlora.adapters.shapes import BIAS, GAIN, is_of_method, layer_of, method_tensor
from visionlora.errors import AdapterError


def check_alike(paths: Sequence[Path | str], adapters: Sequence[ArrayAdapter]) -> None:
    """Refuse adapters that cannot be added.

    Raises:
        AdapterError: one differs from the first; it says in what.
    """
    first = adapters[0]
    for path, other in zip(paths[1:], adapters[1:], strict=True):
        for what, one, two in (
            ("base", first.card.base["fingerprint"], other.card.base["fingerprint"]),
            ("task", first.card.sized_task, other.card.sized_task),
            ("classes", first.card.names, other.card.names),
            ("image size", first.card.image_size, other.card.image_size),
            ("preprocessing", first.card.preprocessing, other.card.preprocessing),
            ("activation", _activation(first.card), _activation(other.card)),
            ("base precision", first.card.settings.base_precision, other.card.settings.base_precision),
            ("tensors", *_apart(other_tensors(first), other_tensors(other))),
            ("targets", first.card.settings.targets, other.card.settings.targets),
        ):
            _check_equal(path, paths[0], what, one, two, advice="only adapters that agree in it can be added")


def check_fit(paths: Sequence[Path | str], adapters: Sequence[ArrayAdapter], methods: Sequence[Summable]) -> None:
    """Refuse adapters that cannot be added in the own form of their method, and tensors that no such adapter has.

    Raises:
        AdapterError: one is of another method or other layers than the first, or a tensor does not fit; it is named.
    """
    first, advice = adapters[0], "pass --model BASE to add them as a lora"
    for path, adapter, method in zip(paths, adapters, methods, strict=True):
        _check_equal(path, paths[0], "method", methods[0].name, method.name, advice=advice)
        _check_equal(path, paths[0], "layers", *_apart(layers_of(first), layers_of(adapter)), advice=advice)
        _check_names(path, adapter)
        for name, tensor in adapter.tensors.items():
            layer = layer_of(method, name)
            if is_of_method(method, name):
                fits = _weight_shape(adapter, method, layer) == _weight_shape(first, methods[0], layer) != ()
            else:
                fits = tensor.size > 0 and tensor.shape == first.tensors[name].shape
                if name.endswith((BIAS, GAIN)) and method.tensors:
                    fits = fits and tensor.shape == _weight_shape(adapter, method, layer)[:1]
            if not fits:
                raise AdapterError(f"{path}: {name}: of shape {tensor.shape}, it does not fit its layer")


def layers_of(adapter: ArrayAdapter) -> list[str]:
    """Return the layers that an adapter has tensors of its method for, in the order of their names."""
    method = adapter.card.settings.method
    return sorted({layer_of(method, name) for name in adapter.tensors if is_of_method(method, name)})


def own_tensors(adapter: ArrayAdapter, layer: str) -> dict[str, NDArray[np.floating]]:
    """Return the tensors of a layer that are its method's, by their short names."""
    names = {name: method_tensor(layer, name) for name in adapter.card.settings.method.tensors}
    return {name: adapter.tensors[full] for name, full in names.items() if full in adapter.tensors}


def other_tensors(adapter: ArrayAdapter) -> list[str]:
    """Return the names of the tensors that are not the method's: biases, gains, class outputs."""
    return sorted(name for name in adapter.tensors if not is_of_method(adapter.card.settings.method, name))


def _check_names(path: Path | str, adapter: ArrayAdapter) -> None:
    """Refuse tensors that no adapter of such a card has."""
    method, names = adapter.card.settings.method, other_tensors(adapter)
    if method.tensors:
        adapted = set(layers_of(adapter))
    else:  # biases alone say which layers
        adapted = {layer_of(method, name) for name in names if name.endswith(BIAS)}
    vectors = (BIAS, GAIN) if adapter.card.settings.normalization == "live" else (BIAS,)
    unknown = [
        name
        for name in names
        if not name.endswith(vectors if layer_of(method, name) in adapted else (".weight", ".bias"))
    ]
    if unknown:
        raise AdapterError(f"{path}: {len(unknown)} tensors belong to no layer: {', '.join(unknown[:10])}")


def _check_equal(path: Path | str, first: Path | str, what: str, one: object, two: object, *, advice: str) -> None:
    if one != two:
        raise AdapterError(f"{path}: expected the {what} of {first}, {one!s:.80}, got {two!s:.80}; {advice}")


def _apart(one: Sequence[str], two: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what each has that the other has not."""
    return sorted({*one} - {*two}), sorted({*two} - {*one})


def _activation(card: AdapterCard) -> str:
    """Return the activation in its full form: `silu` or `relu:TARGETS`."""
    targets = card.settings.relu_targets
    return f"relu:{targets}" if targets else "silu"


def _weight_shape(adapter: ArrayAdapter, method: Summable, layer: str) -> tuple[int, ...]:
    """Return what the tensors of a layer say of its weight; nothing where they do not fit each other."""
    own = own_tensors(adapter, layer)
    try:
        return method.weight_shape(own) if all(tensor.size for tensor in own.values()) else ()
    except ValueError:
        return ()
