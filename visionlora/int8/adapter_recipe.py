"""The quantization that an adapter file carries: what turns its patched model into int8, and what must come out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import numpy_helper

from visionlora.adapters import AdapterCard, ArrayAdapter, adapter_identity, load_arrays, save_arrays
from visionlora.errors import AdapterError, QuantizationError, UsageError
from visionlora.files import sha256_of
from visionlora.int8.recipe import QuantizationRecipe

FORMAT = 1


def attach_recipe(
    adapter: Path | str,
    recipe: QuantizationRecipe,
    *,
    float_model: onnx.ModelProto | None = None,
    int8_model: onnx.ModelProto | None = None,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Write a quantization recipe into an adapter file, in place of an earlier one; atomically.

    Args:
        adapter: the file.
        recipe: scheme, activation ranges and finer layers, from a calibration or a training with them.
        float_model: the exported merged model; `patch` then refuses where it would make other constants.
        int8_model: the quantized model, likewise.
        thresholds: lowest scores that count, one a class, in the quantized model; None leaves them to whoever runs it.

    Raises:
        AdapterError: the file is no adapter.
        OutputError: it cannot be written.
    """
    before = load_arrays(adapter)
    models = {"float": float_model, "int8": int8_model}
    quantization = {
        "format": FORMAT,
        "adapter": adapter_identity(adapter),
        "recipe": json.loads(recipe.to_json()),
        "constants": {name: constants_digest(model) for name, model in models.items() if model is not None},
        **({} if thresholds is None else {"thresholds": list(thresholds)}),
    }
    save_arrays(ArrayAdapter(replace(before.card, quantization=quantization), before.tensors), adapter)


def check_adapter_of(model: Path | str, parents: Mapping[str, str], adapter: Path | str) -> None:
    """Refuse an adapter that an exported model, whose card names `parents`, was not made from.

    Raises:
        AdapterError: the file is no adapter.
        UsageError: it is another.
    """
    expected, got = parents.get("adapter"), {adapter_identity(adapter), sha256_of(adapter)}
    if expected not in got:
        raise UsageError(
            f"--adapter {adapter}: expected the adapter that {model} was made from ({str(expected)[:12]}), "
            f"got another ({sha256_of(adapter)[:12]}); its activations have other ranges"
        )


def recipe_of(card: AdapterCard) -> QuantizationRecipe:
    """Return the recipe in an adapter's card.

    Raises:
        UsageError: it carries none.
        AdapterError: it is broken.
    """
    if not card.quantization:
        raise UsageError(
            "int8: the adapter carries no quantization recipe; write it on the workstation with "
            "visionlora quantize ... --adapter adapter.safetensors"
        )
    if card.quantization.get("format") != FORMAT:
        raise AdapterError(f"quantization: expected format {FORMAT}, got {card.quantization.get('format')!r:.40}")
    try:
        return QuantizationRecipe.from_json(json.dumps(card.quantization.get("recipe")))
    except (QuantizationError, UsageError) as error:
        raise AdapterError(f"the adapter's quantization recipe is broken: {error}") from error


def thresholds_of(card: AdapterCard) -> list[float] | None:
    """Return the thresholds that an adapter's card has beside its recipe; None where it has none.

    Raises:
        AdapterError: they are no numbers from 0 to 1, one a class.
    """
    found = card.quantization.get("thresholds")
    if found is None:
        return None
    numbers = isinstance(found, list) and all(
        isinstance(threshold, float | int) and 0 <= threshold <= 1 for threshold in found
    )
    if not numbers or len(found) != len(card.names):
        raise AdapterError(f"thresholds: expected {len(card.names)} numbers from 0 to 1, got {found!r:.60}")
    return [float(threshold) for threshold in found]


def check_constants(model: onnx.ModelProto, card: AdapterCard, precision: str) -> None:
    """Refuse a patched model whose constants are not those that the workstation made, if the adapter names them.

    Raises:
        AdapterError: they differ.
    """
    digests = card.quantization.get("constants", {})
    expected = digests.get(precision) if isinstance(digests, Mapping) else None
    got = constants_digest(model)
    if expected is not None and expected != got:
        raise AdapterError(
            f"the patched {precision} model is not the one that the workstation made: expected constants "
            f"{str(expected)[:12]}, got {got[:12]}; export the base with the version that exported the merged model"
        )


def constants_digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of a graph's constants (weights, biases, scales, shapes), whatever their names and order."""
    return hashlib.sha256(b"".join(sorted(map(_digest, model.graph.initializer)))).hexdigest()


def _digest(tensor: onnx.TensorProto) -> bytes:
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):  # versions of onnx read it as various types
        return hashlib.sha256(f"{tensor.data_type}{list(tensor.dims)}".encode() + tensor.raw_data).digest()
    array = numpy_helper.to_array(tensor)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).digest()
