"""A patched model in int8, by the recipe that its adapter carries."""

from __future__ import annotations

import io
import json

import onnx

from visionlora.adapters import AdapterCard
from visionlora.int8 import apply_recipe, load_float_model
from visionlora.int8.adapter_recipe import recipe_of, thresholds_of


def quantized_model(model: onnx.ModelProto, card: AdapterCard) -> onnx.ModelProto:
    """Return a patched model in int8, as the adapter's recipe says; its metadata follows.

    Raises:
        UsageError, AdapterError: the adapter carries no recipe, or a broken one, or broken thresholds.
        QuantizationError: the recipe is of another graph.
    """
    recipe = recipe_of(card)
    quantized = apply_recipe(load_float_model(io.BytesIO(model.SerializeToString()), card.sized_task), recipe)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    described = json.loads(entries["visionlora"])
    described["kind"] = "int8"
    described["settings"] |= {"scheme": recipe.scheme.described(), **recipe.described_layers()}
    thresholds = thresholds_of(card)
    if thresholds is not None:
        described["thresholds"] = thresholds
    entries["visionlora"] = json.dumps(described, sort_keys=True)
    for key, value in entries.items():
        quantized.metadata_props.add(key=key, value=value)
    return quantized
