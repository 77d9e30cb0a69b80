"""Adapters scaled, added, and brought to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from visionlora.adapters.combining import BaseWeights, CombinedAdapter, combine
from visionlora.formats.kinds import CHECKPOINT
from visionlora.hub import local_file


def scale_adapter(
    adapter: Path | str, out: Path | str, *, factor: float, model: Path | str | None = None, overwrite: bool = False
) -> CombinedAdapter:
    """Write an adapter that changes the base `factor` times as much; class outputs trained whole stay.

    Args:
        adapter: the adapter file.
        out: the file to write (.safetensors).
        factor: 0 turns the changes off, 1 leaves them.
        model: the base (.pt) that it was trained on, which DoRA and OFT need: the result is a LoRA at full rank. None
            for one of the adapter's own method.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the file cannot be read, its method needs the base or cannot be scaled, or the result does not
            fit its precision.
        ModelError: the base cannot be used.
        OutputError: `out` exists, or cannot be written.
        UsageError: `factor` is not a finite number.

    Example:
        >>> import visionlora as vl
        >>> vl.scale_adapter("a.safetensors", "half.safetensors", factor=0.5)  # doctest: +SKIP
    """
    return combine([adapter], out, [factor], None, base=_base(model), overwrite=overwrite)


def rank_adapter(
    adapter: Path | str, out: Path | str, *, rank: int, model: Path | str | None = None, overwrite: bool = False
) -> CombinedAdapter:
    """Write the LoRA of this rank that is nearest to an adapter (truncated singular values, Eckart and Young).

    Args:
        adapter: the adapter file.
        out: the file to write (.safetensors).
        rank: of the new adapter; lowered on layers too small for it.
        model: the base (.pt) that it was trained on, which all methods but LoRA need.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the file cannot be read, or its method needs the base or has no change of weights.
        ModelError: the base cannot be used.
        OutputError: `out` exists, or cannot be written.
        UsageError: `rank` is below 1, or the method has none without the base.

    Example:
        >>> import visionlora as vl
        >>> vl.rank_adapter("a.safetensors", "small.safetensors", rank=4).error  # doctest: +SKIP
        0.12
    """
    return combine([adapter], out, [1.0], rank, base=_base(model), overwrite=overwrite)


def merge_adapters(
    adapters: Sequence[Path | str],
    out: Path | str,
    *,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    model: Path | str | None = None,
    overwrite: bool = False,
) -> CombinedAdapter:
    """Write the weighted sum of adapters of one base with the same classes.

    The changes of weights and biases are added; of class outputs trained whole the weighted mean is taken.

    Args:
        adapters: the adapter files.
        out: the file to write (.safetensors).
        weights: one number an adapter; None for their mean.
        rank: of the result, by truncated singular values; None for the sum of the ranks of LoRAs, which loses nothing
            but on layers too small for it, and for full rank with `model`.
        model: the base (.pt) that they were trained on: the result is a LoRA, whatever their methods. None for a sum
            of one method in its own form, which LoRA, IA3 and BitFit have.
        overwrite: replace an existing file.

    Raises:
        AdapterError: a file cannot be read, or they are of different bases, classes, preprocessing, layers,
            activations or precisions of the base, or of methods that need the base or have no change of weights.
        ModelError: the base cannot be used.
        OutputError: `out` exists, or cannot be written.
        UsageError: the weights do not fit the adapters, `rank` is below 1, or the method has no such sum.

    Example:
        >>> import visionlora as vl
        >>> vl.merge_adapters(["a.safetensors", "b.safetensors"], "ab.safetensors", rank=8)  # doctest: +SKIP
    """
    if weights is None:
        weights = [1 / max(len(adapters), 1)] * len(adapters)
    return combine(adapters, out, weights, rank, base=_base(model), overwrite=overwrite)


def _base(model: Path | str | None) -> BaseWeights | None:
    """Return what tells the weights of a base, with torch; None for none."""
    if model is None:
        return None
    from visionlora.workflows.base_weights import base_weights

    return partial(base_weights, local_file(model, CHECKPOINT))
