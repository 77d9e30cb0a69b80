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

from visionlora.adapters.agreement import check_alike, check_fit, layers_of, other_tensors, own_tensors
from visionlora.adapters.card import AdapterCard
from visionlora.adapters.file import ArrayAdapter, load_arrays, save_arrays
from visionlora.adapters.methods import Matrix, Method, Summable
from visionlora.adapters.shapes import BIAS, method_tensor
from visionlora.errors import AdapterError, UsageError
from visionlora.files import refuse_existing, sha256_of
from visionlora.formats.kinds import ADAPTER
from visionlora.hub import local_file

_LOGGER = logging.getLogger("visionlora")


@dataclass(frozen=True)
class CombinedAdapter:
    """An adapter that was made from others.

    Attributes:
        path: the file.
        method: its method, with the rank that it has.
        error: what the rank and the file's precision cost: the Frobenius norm of what the weights' changes miss, over
            that of the changes, all layers together.
        layers: the same for each layer.
        bytes: size of the file.
    """

    path: Path
    method: Method
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
    check_alike(paths, adapters)
    check_fit(paths, adapters, methods)
    method = methods[0].summed(methods[1:], rank)
    precision = np.result_type(*(tensor.dtype for adapter in adapters for tensor in adapter.tensors.values()))
    tensors: dict[str, NDArray[np.floating]] = {}
    missed: dict[str, float] = {}
    norms: dict[str, float] = {}
    for layer in layers_of(adapters[0]):
        parts = [
            (weight, own, own_tensors(adapter, layer))
            for weight, own, adapter in zip(weights, methods, adapters, strict=True)
        ]
        made = {part: tensor.astype(precision) for part, tensor in method.combined(parts).items()}
        tensors |= {method_tensor(layer, part): tensor for part, tensor in made.items()}
        wanted = np.asarray(sum(weight * own.change(kept) for weight, own, kept in parts))
        missed[layer], norms[layer] = (float(np.linalg.norm(each)) for each in (method.change(made) - wanted, wanted))
    for name in other_tensors(adapters[0]):
        values = [adapter.tensors[name].astype(np.float64) for adapter in adapters]
        tensors[name] = (_sum if name.endswith(BIAS) else _mean)(values, weights).astype(precision)
    card = AdapterCard(
        settings=replace(adapters[0].card.settings, method=method),
        names=adapters[0].card.names,
        base=adapters[0].card.base,
        preprocessing=adapters[0].card.preprocessing,
        task=adapters[0].card.task,
        training={"adapters": [sha256_of(path) for path in paths], "weights": list(weights)},
        version=version("visionlora"),
    )
    save_arrays(ArrayAdapter(card, tensors), out)
    _warn_of_lost_recipe(out, adapters)
    layers = {layer: missed[layer] / norms[layer] if norms[layer] else 0.0 for layer in missed}
    total_missed, total_norm = (math.hypot(*each.values()) for each in (missed, norms))
    return CombinedAdapter(out, method, total_missed / total_norm if total_norm else 0.0, layers, out.stat().st_size)


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


def _sum(values: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """Return the weighted sum."""
    return np.asarray(sum(weight * value for weight, value in zip(weights, values, strict=True)))


def _mean(values: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """Return the weighted mean; of one adapter, its own values whatever its weight."""
    if len(values) == 1:
        return values[0]
    total = sum(weights)
    if total == 0:
        raise UsageError(f"--weights: expected a sum other than 0 for the class outputs, got {list(weights)}")
    return _sum(values, weights) / total
