"""Arithmetic on adapter files: a weighted sum, in the form of their method or through their base, with its error."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.agreement import check_alike, check_fit, layers_of, other_tensors, own_tensors
from visionlora.adapters.card import AdapterCard
from visionlora.adapters.file import ArrayAdapter, load_arrays, save_arrays
from visionlora.adapters.methods import Arrays, Factor, LoRA, Matrix, Method, Summable
from visionlora.adapters.shapes import BIAS, GAIN, method_tensor
from visionlora.errors import AdapterError, UsageError
from visionlora.files import refuse_existing, sha256_of
from visionlora.formats.kinds import ADAPTER
from visionlora.hub import local_file
from visionlora.tasks import task_fields

_LOGGER = logging.getLogger("visionlora")
BaseWeights = Callable[[Sequence[Path], Sequence[ArrayAdapter]], Mapping[str, NDArray[np.float32]]]
"""Returns the weights of a base that adapters, given with their files, adapt, rounded as they are for these, by layer.

An AdapterError says which of them does not fit the base."""


@dataclass(frozen=True)
class CombinedAdapter:
    """An adapter that was made from others.

    Attributes:
        path: the file.
        method: its method, with the rank that it has.
        error: what the rank and the file's precision cost: the Frobenius norm of what the weights' changes miss, over
            that of the changes, all layers together. Of IA3, where a change is a factor of the weight, that of factors.
        layers: the same for each layer; none where biases alone change.
        bytes: size of the file.
    """

    path: Path
    method: Method
    error: float
    layers: Mapping[str, float]
    bytes: int


def combine(
    paths: Sequence[Path | str],
    out: Path | str,
    weights: Sequence[float],
    rank: int | None,
    *,
    base: BaseWeights | None,
    overwrite: bool,
) -> CombinedAdapter:
    """Write the adapter whose changes are the weighted sum of those of others, or nearest to it.

    Args:
        paths: the adapter files.
        out: the file to write (.safetensors).
        weights: one number an adapter.
        rank: of the result; None for one that loses nothing.
        base: None for a sum in the form of the adapters' method; else what tells their base's weights, and the result
            is a LoRA, at full rank where `rank` is None.
        overwrite: replace an existing file.

    Raises:
        AdapterError: a file cannot be read, they do not agree, or their method has no such sum.
        OutputError: `out` exists, or cannot be written.
        UsageError: the weights do not fit the adapters, or the rank not the method.
    """
    out = refuse_existing(out, overwrite=overwrite)
    ADAPTER.check_out(out)
    files = [Path(local_file(path, ADAPTER)) for path in paths]
    _check_call(files, out, weights, rank)
    adapters = [load_arrays(path) for path in files]
    _check_changes(files, adapters)
    check_alike(files, adapters)
    if base is None:
        method, sums = _in_own_form(files, adapters, weights, rank)
    else:
        method, sums = _through_base(base(files, adapters), adapters, weights, rank)
    precision = np.result_type(*(tensor.dtype for adapter in adapters for tensor in adapter.tensors.values()))
    tensors: dict[str, NDArray[np.floating]] = {}
    missed: dict[str, float] = {}
    norms: dict[str, float] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused
        for layer, wanted, made in sums:
            kept = {part: tensor.astype(precision) for part, tensor in made.items()}
            tensors |= {method_tensor(layer, part): tensor for part, tensor in kept.items()}
            missed[layer], norms[layer] = map(_norm, (method.change(kept) - wanted, wanted))
            if not math.isfinite(missed[layer]):
                raise AdapterError(f"{out}: {layer}: its change is not finite in {precision}; no file is written")
        for name in other_tensors(adapters[0]):
            values = [adapter.tensors[name].astype(np.float64) for adapter in adapters]
            tensors[name] = (_sum if name.endswith((BIAS, GAIN)) else _mean)(values, weights).astype(precision)
    card = AdapterCard(
        settings=replace(adapters[0].card.settings, method=method),
        names=adapters[0].card.names,
        base=adapters[0].card.base,
        preprocessing=adapters[0].card.preprocessing,
        **task_fields(adapters[0].card.sized_task),
        training={"adapters": [sha256_of(path) for path in files], "weights": list(weights)},
        version=version("visionlora"),
    )
    save_arrays(ArrayAdapter(card, tensors), out)
    _warn_of_lost_recipe(out, adapters)
    layers = {layer: missed[layer] / norms[layer] if norms[layer] else 0.0 for layer in missed}
    total_missed, total_norm = (math.hypot(*each.values()) for each in (missed, norms))
    return CombinedAdapter(out, method, total_missed / total_norm if total_norm else 0.0, layers, out.stat().st_size)


def _check_call(paths: Sequence[Path], out: Path, weights: Sequence[float], rank: int | None) -> None:
    if out.resolve() in {path.resolve() for path in paths}:
        raise UsageError(f"--out {out}: expected another file than the adapters; one would be replaced")
    if not paths or len(weights) != len(paths) or not all(map(math.isfinite, weights)):
        raise UsageError(f"--weights: expected a finite number for each of {len(paths)} adapters, got {list(weights)}")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank: expected at least 1, got {rank}")


Sums = Iterator[tuple[str, Matrix, Arrays]]
"""Of each layer its name, the sum of changes as a matrix, and the tensors that come nearest to it."""


def _in_own_form(
    paths: Sequence[Path], adapters: Sequence[ArrayAdapter], weights: Sequence[float], rank: int | None
) -> tuple[Summable, Sums]:
    """Return the method of the sum, and what it is."""
    methods = []
    for path, adapter in zip(paths, adapters, strict=True):
        method = adapter.card.settings.method
        if not isinstance(method, Summable):
            raise AdapterError(
                f"{path}: its method, {method.name}, changes a weight by what the base's is, which the file does not "
                "hold; pass --model BASE, and the result is a lora"
            )
        methods.append(method)
    check_fit(paths, adapters, methods)
    total = methods[0].summed(methods[1:], rank)

    def sums() -> Sums:
        for layer in layers_of(adapters[0]):
            own = [own_tensors(adapter, layer) for adapter in adapters]
            factors = _factors(adapters, weights, layer)
            changes = [method.change(tensors) for method, tensors in zip(methods, own, strict=True)]
            yield layer, _sum(changes, factors), total.combined(list(zip(factors, methods, own, strict=True)))

    return total, sums()


def _through_base(
    base: Mapping[str, NDArray[np.float32]],
    adapters: Sequence[ArrayAdapter],
    weights: Sequence[float],
    rank: int | None,
) -> tuple[LoRA, Sums]:
    """Return LoRA of the rank, or at full rank, and what it is."""
    lora = LoRA(full=max(weight.size for weight in base.values())) if rank is None else LoRA(rank)

    def sums() -> Sums:
        for layer, weight in base.items():
            merged = [adapter.card.settings.method.merged(weight, own_tensors(adapter, layer)) for adapter in adapters]
            changes = [(each.astype(np.float64) - weight).reshape(len(weight), -1) for each in merged]
            change = _sum(changes, _factors(adapters, weights, layer))
            yield layer, change, lora.nearest(change, weight.shape)

    return lora, sums()


def _factors(adapters: Sequence[ArrayAdapter], weights: Sequence[float], layer: str) -> list[Factor]:
    """Return how often the change of each adapter counts in a layer: its weight, or a number for each output.

    Where normalizations were trained too, an adapter changes W by (1 + g)(W + D) - W. A weighted sum of such changes is
    one again: its g is the weighted sum of g, and its D that of D, each times its own 1 + g over that of the sum.

    Raises:
        AdapterError: the sum silences a channel.
    """
    name = f"{layer}{GAIN}"
    if name not in adapters[0].tensors:
        return list(weights)
    gains = [adapter.tensors[name].astype(np.float64)[:, None] for adapter in adapters]
    total = 1 + _sum(gains, weights)
    if not total.all():
        raise AdapterError(f"{layer}: the sum of what was trained of its normalization silences a channel")
    return [weight * (1 + gain) / total for weight, gain in zip(weights, gains, strict=True)]


def _check_changes(paths: Sequence[Path], adapters: Sequence[ArrayAdapter]) -> None:
    """Refuse adapters that change no weight.

    Raises:
        AdapterError: there is one.
    """
    for path, adapter in zip(paths, adapters, strict=True):
        method = adapter.card.settings.method
        if not method.merges:
            raise AdapterError(
                f"{path}: its method, {method.name}, adds modules; what these compute is no change of a weight, so it "
                "cannot be scaled, summed or brought to another rank"
            )


def _warn_of_lost_recipe(out: Path, adapters: Sequence[ArrayAdapter]) -> None:
    if any(adapter.card.quantization for adapter in adapters):
        _LOGGER.warning(
            "%s: has no quantization recipe, since ranges of other weights do not fit it; calibrate again "
            "(visionlora quantize --adapter), or go on training (visionlora train --adapter ... --quantize int8)",
            out,
        )


def _norm(matrix: Matrix) -> float:
    return float(np.linalg.norm(matrix))


def _sum(values: Sequence[Matrix], weights: Sequence[Factor]) -> Matrix:
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
