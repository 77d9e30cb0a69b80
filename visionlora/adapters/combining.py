"""Arithmetic on adapter files: scale one, add several, and bring the result to a rank; with the error that it costs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.card import AdapterCard
from visionlora.adapters.file import ArrayAdapter, load_arrays, save_arrays
from visionlora.adapters.methods import Summable
from visionlora.adapters.shapes import BIAS, GAIN, is_of_method, layer_of, method_tensor
from visionlora.errors import AdapterError, UsageError
from visionlora.files import refuse_existing, sha256_of
from visionlora.formats.kinds import ADAPTER
from visionlora.hub import local_file
from visionlora.tasks import task_fields

_LOGGER = logging.getLogger("visionlora")
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class CombinedAdapter:
    """An adapter that was made from others.

    Attributes:
        path: the file.
        rank: its rank.
        error: what the rank and the file's precision cost: the Frobenius norm of what the weights' changes miss, over
            that of the changes, all layers together.
        layers: the same for each layer.
        bytes: size of the file.
    """

    path: Path
    rank: int
    error: float
    layers: Mapping[str, float]
    bytes: int


def scale_adapter(adapter: Path | str, out: Path | str, *, factor: float, overwrite: bool = False) -> CombinedAdapter:
    """Write an adapter that changes the base `factor` times as much; class outputs trained whole stay.

    Args:
        adapter: the adapter file.
        out: the file to write (.safetensors).
        factor: 0 turns the changes off, 1 leaves them.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the file cannot be read, or the result does not fit its precision.
        OutputError: `out` exists, or cannot be written.
        UsageError: `factor` is not a finite number.

    Example:
        >>> import visionlora as vl
        >>> vl.scale_adapter("a.safetensors", "half.safetensors", factor=0.5)  # doctest: +SKIP
    """
    return _combine([adapter], out, [factor], None, overwrite=overwrite)


def rank_adapter(adapter: Path | str, out: Path | str, *, rank: int, overwrite: bool = False) -> CombinedAdapter:
    """Write the adapter of this rank that is nearest to a given one (truncated singular values, Eckart and Young).

    Args:
        adapter: the adapter file.
        out: the file to write (.safetensors).
        rank: of the new adapter; lowered on layers too small for it.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the file cannot be read.
        OutputError: `out` exists, or cannot be written.
        UsageError: `rank` is below 1.

    Example:
        >>> import visionlora as vl
        >>> vl.rank_adapter("a.safetensors", "small.safetensors", rank=4).error  # doctest: +SKIP
        0.12
    """
    return _combine([adapter], out, [1.0], rank, overwrite=overwrite)


def merge_adapters(
    adapters: Sequence[Path | str],
    out: Path | str,
    *,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    overwrite: bool = False,
) -> CombinedAdapter:
    """Write the weighted sum of adapters of one base with the same classes.

    The changes of weights and biases are added; of class outputs trained whole the weighted mean is taken.

    Args:
        adapters: the adapter files.
        out: the file to write (.safetensors).
        weights: one number an adapter; None for their mean.
        rank: of the result, by truncated singular values; None for the sum of the ranks, which loses nothing but on
            layers too small for it.
        overwrite: replace an existing file.

    Raises:
        AdapterError: a file cannot be read, or they are of different bases, classes, preprocessing, layers,
            activations or precisions of the base.
        OutputError: `out` exists, or cannot be written.
        UsageError: the weights do not fit the adapters, or `rank` is below 1.

    Example:
        >>> import visionlora as vl
        >>> vl.merge_adapters(["a.safetensors", "b.safetensors"], "ab.safetensors", rank=8)  # doctest: +SKIP
    """
    if weights is None:
        weights = [1 / max(len(adapters), 1)] * len(adapters)
    return _combine(adapters, out, weights, rank, overwrite=overwrite)


def _combine(
    paths: Sequence[Path | str], out: Path | str, weights: Sequence[float], rank: int | None, *, overwrite: bool
) -> CombinedAdapter:
    out = refuse_existing(out, overwrite=overwrite)
    ADAPTER.check_out(out)
    paths = [local_file(path, ADAPTER) for path in paths]
    if out.resolve() in {Path(path).resolve() for path in paths}:
        raise UsageError(f"--out {out}: expected another file than the adapters; one would be replaced")
    if not paths or len(weights) != len(paths) or not all(map(math.isfinite, weights)):
        raise UsageError(f"--weights: expected a finite number for each of {len(paths)} adapters, got {list(weights)}")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank: expected at least 1, got {rank}")
    adapters = [load_arrays(path) for path in paths]
    methods = _summable(paths, adapters, weights)
    _check_alike(paths, adapters, methods)
    method = methods[0].summed(methods[1:], rank)
    settings = replace(adapters[0].card.settings, method=method)
    precision = np.result_type(*(tensor.dtype for adapter in adapters for tensor in adapter.tensors.values()))
    tensors: dict[str, NDArray[np.floating]] = {}
    missed: dict[str, np.floating] = {}
    norms: dict[str, np.floating] = {}
    for name in sorted(adapters[0].tensors):
        layer = layer_of(method, name)
        if is_of_method(method, name):
            if layer in missed:
                continue
            parts = [
                (weight, own, _own(adapter, layer))
                for weight, own, adapter in zip(weights, methods, adapters, strict=True)
            ]
            made = {part: tensor.astype(precision) for part, tensor in method.combined(parts).items()}
            tensors |= {method_tensor(layer, part): tensor for part, tensor in made.items()}
            wanted = np.asarray(sum(weight * own.change(kept) for weight, own, kept in parts))
            missed[layer], norms[layer] = np.linalg.norm(method.change(made) - wanted), np.linalg.norm(wanted)
        else:
            values = [adapter.tensors[name].astype(np.float64) for adapter in adapters]
            total = sum(weight * value for weight, value in zip(weights, values, strict=True))
            tensors[name] = np.asarray(
                total if name.endswith(BIAS) else _mean(values, weights), dtype=np.float64
            ).astype(precision)
    card = AdapterCard(
        settings=settings,
        names=adapters[0].card.names,
        base=adapters[0].card.base,
        preprocessing=adapters[0].card.preprocessing,
        **task_fields(adapters[0].card.sized_task),
        training={"adapters": [sha256_of(path) for path in paths], "weights": list(weights), "rank": method.rank},
        version=version("visionlora"),
    )
    save_arrays(ArrayAdapter(card, tensors), out)
    _warn_of_lost_recipe(out, adapters)
    layers = {layer: float(missed[layer] / norms[layer]) if norms[layer] else 0.0 for layer in missed}
    total_norm = math.sqrt(sum(float(norm) ** 2 for norm in norms.values()))
    total_missed = math.sqrt(sum(float(miss) ** 2 for miss in missed.values()))
    return CombinedAdapter(
        out, method.rank, total_missed / total_norm if total_norm else 0.0, layers, out.stat().st_size
    )


def _summable(
    paths: Sequence[Path | str], adapters: Sequence[ArrayAdapter], weights: Sequence[float]
) -> list[Summable]:
    """Return the method of each adapter.

    Raises:
        AdapterError: it is none whose changes can be added.
    """
    methods = []
    for path, adapter in zip(paths, adapters, strict=True):
        method = adapter.card.settings.method
        if not isinstance(method, Summable):
            raise AdapterError(
                f"{path}: its method, {method.name}, cannot be scaled, summed or brought to another rank; merge it "
                "into its base instead"
            )
        if adapter.card.settings.normalization != "frozen" and list(weights) != [1.0]:
            raise AdapterError(
                f"{path}: its normalization was trained too, which cannot be scaled or summed; only its rank can change"
            )
        methods.append(method)
    return methods


def _warn_of_lost_recipe(out: Path, adapters: Sequence[ArrayAdapter]) -> None:
    if any(adapter.card.quantization for adapter in adapters):
        _LOGGER.warning(
            "%s: has no quantization recipe, since ranges of other weights do not fit it; calibrate again "
            "(visionlora quantize --adapter), or go on training (visionlora train --adapter ... --quantize int8)",
            out,
        )


def _check_alike(paths: Sequence[Path | str], adapters: Sequence[ArrayAdapter], methods: Sequence[Summable]) -> None:
    first = adapters[0]
    for path, other in zip(paths[1:], adapters[1:], strict=True):
        for what, one, two in (
            ("base", first.card.base["fingerprint"], other.card.base["fingerprint"]),
            ("classes", first.card.names, other.card.names),
            ("image size", first.card.image_size, other.card.image_size),
            ("preprocessing", first.card.preprocessing, other.card.preprocessing),
            ("method", first.card.settings.method.name, other.card.settings.method.name),
            ("activation", _activation(first.card), _activation(other.card)),
            ("base precision", first.card.settings.base_precision, other.card.settings.base_precision),
            ("layers", _only(first, other), _only(other, first)),
            ("targets", first.card.settings.targets, other.card.settings.targets),
        ):
            if one != two:
                raise AdapterError(
                    f"{path}: expected the {what} of {paths[0]}, {one!s:.80}, got {two!s:.80}; "
                    "only adapters that agree in it can be added"
                )
    for path, adapter, method in zip(paths, adapters, methods, strict=True):
        _check_names(path, adapter, method)
        for name, tensor in adapter.tensors.items():
            if not _fits(name, adapter, method, first.tensors[name].shape):
                raise AdapterError(f"{path}: {name}: of shape {tensor.shape}, it does not fit its layer")


def _check_names(path: Path | str, adapter: ArrayAdapter, method: Summable) -> None:
    """Refuse tensors that no adapter of such a card has."""
    adapted = {layer_of(method, name) for name in adapter.tensors if is_of_method(method, name)}
    vectors = (BIAS, GAIN) if adapter.card.settings.normalization == "live" else (BIAS,)
    unknown = [
        name
        for name in adapter.tensors
        if not is_of_method(method, name)
        and not name.endswith(vectors if layer_of(method, name) in adapted else (".weight", ".bias"))
    ]
    if unknown:
        raise AdapterError(f"{path}: {len(unknown)} tensors belong to no layer: {', '.join(sorted(unknown)[:10])}")


def _only(adapter: ArrayAdapter, other: ArrayAdapter) -> list[str]:
    """Return the tensors that one adapter has and the other has not."""
    return sorted(adapter.tensors.keys() - other.tensors.keys())


def _activation(card: AdapterCard) -> str:
    """Return the activation in its full form: `silu` or `relu:TARGETS`."""
    targets = card.settings.relu_targets
    return f"relu:{targets}" if targets else "silu"


def _own(adapter: ArrayAdapter, layer: str) -> dict[str, NDArray[np.floating]]:
    """Return the tensors of a layer that are its method's, by their short names."""
    names = {name: method_tensor(layer, name) for name in adapter.card.settings.method.tensors}
    return {name: adapter.tensors[full] for name, full in names.items() if full in adapter.tensors}


def _fits(name: str, adapter: ArrayAdapter, method: Summable, reference: tuple[int, ...]) -> bool:
    """Say whether a tensor has the shape of the first adapter's, or as one of a method's fits the others."""
    tensor = adapter.tensors[name]
    if tensor.ndim < 1 or not tensor.size:
        return False
    if not is_of_method(method, name):
        return tensor.shape == reference
    own = _own(adapter, layer_of(method, name))
    try:
        return {part: kept.shape for part, kept in own.items()} == method.shapes(method.weight_shape(own))
    except ValueError:
        return False


def _mean(values: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """Return the weighted mean; of one adapter, its own values whatever its weight."""
    if len(values) == 1:
        return values[0]
    total = sum(weights)
    if total == 0:
        raise UsageError(f"--weights: expected a sum other than 0 for the class outputs, got {list(weights)}")
    return np.asarray(sum(weight * value for weight, value in zip(weights, values, strict=True))) / total
