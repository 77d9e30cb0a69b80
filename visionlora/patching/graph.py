"""Putting an adapter's weights, class count and names into the graph of an exported base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from visionlora.adapters import AdapterCard, ArrayAdapter
from visionlora.adapters.folded_base import ENTRY
from visionlora.cards import data_hashes, family_in, make_card
from visionlora.errors import ModelError
from visionlora.patching.base import PREFIX, PatchableBase
from visionlora.patching.weights import patched_weights, replaced_outputs

_MOVING = frozenset({"Concat", "Reshape", "Sigmoid"})
"""What the exported head does with class scores."""
CLASSES, ROWS = "classes", "rows"
"""What a graph for any number of classes calls that number, and that of the rows of its output."""


def patched_model(base: PatchableBase, adapter: ArrayAdapter, *, adapter_sha256: str) -> onnx.ModelProto:
    """Return what merging the adapter into the checkpoint and exporting would give: the same graph, to the bit.

    Raises:
        AdapterError: the adapter does not fit the base.
        ModelError: the graph's head is not one that visionlora exports.
    """
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in patched_weights(base, adapter).items()}
    model = onnx.ModelProto()
    model.CopyFrom(base.model)
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            _set(tensor, tensors[tensor.name])
    outputs = replaced_outputs(base, adapter.card.names)
    if outputs:
        old, new = len(base.names), len(adapter.card.names)
        resize_classes(model.graph, [f"{PREFIX}{layer}.weight" for layer in outputs], old, new, str(base.path))
    _describe(model, base, adapter.card, parent=adapter_sha256)
    return model


def _set(tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def resize_classes(graph: onnx.GraphProto, weights: Sequence[str], old: int, new: int | None, where: str) -> None:
    """Give every tensor behind the class outputs the new number of classes, on its second axis.

    Args:
        graph: is changed.
        weights: names of the weights of the class outputs.
        old: number of classes of the graph.
        new: the other number; None for any, by the weights that the graph is given.
        where: the graph's file, for messages.

    Raises:
        ModelError: an operation behind them is none of those that visionlora's head has.
    """
    behind = {node.output[0] for node in graph.node if node.op_type == "Conv" and node.input[1] in weights}
    shapes: set[str] = set()
    for node in graph.node:  # in topological order
        if behind.isdisjoint(node.input):
            continue
        if node.op_type not in _MOVING:
            raise ModelError(
                f"{where}: expected only {', '.join(sorted(_MOVING))} behind the class outputs, got {node.op_type}"
            )
        behind.update(node.output)
        if node.op_type == "Reshape":
            shapes.add(node.input[1])
    _resize_reshapes(graph, behind, shapes, old, new or 0, where)  # 0: as many as come in
    for value in (*graph.value_info, *graph.output):
        if value.name in behind:
            side = value.type.tensor_type.shape.dim[1]
            if new is None:
                side.dim_param = ROWS if side.dim_value != old else CLASSES
            else:
                side.dim_value += new - old


def _resize_reshapes(
    graph: onnx.GraphProto, behind: set[str], shapes: set[str], old: int, new: int, where: str
) -> None:
    """Change the shapes (1, classes, anchors) of the reshapes; one that boxes share gets a twin."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for name in shapes:
        if name not in constants:
            raise ModelError(f"{where}: expected the shape {name} to be a constant")
        shape = numpy_helper.to_array(constants[name]).copy()
        if shape.shape != (3,) or shape[1] != old:
            raise ModelError(f"{where}: expected {name} to be (1, {old}, anchors), got {shape.tolist()}")
        shape[1] = new
        readers = [node for node in graph.node if name in node.input]
        of_classes = [node for node in readers if not behind.isdisjoint(node.input)]
        if len(of_classes) == len(readers):
            _set(constants[name], shape)
            continue
        twin = numpy_helper.from_array(shape, f"{name}_classes")
        graph.initializer.append(twin)
        for node in of_classes:
            node.input[list(node.input).index(name)] = twin.name


def _describe(model: onnx.ModelProto, base: PatchableBase, adapter: AdapterCard, *, parent: str) -> None:
    """Say what the file is now; it is no base any more."""
    card = make_card(
        "onnx",
        names=adapter.names,
        image_size=base.image_size,
        parents={"base_onnx": base.sha256, "base": base.folded.fingerprint, "adapter": parent},
        settings={**_settings(base.card), **data_hashes(adapter.training)},
        task=adapter.sized_task,
        family=family_in(base.card),
    )
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {"names": str(dict(enumerate(adapter.names))), "visionlora": json.dumps(card, sort_keys=True)}
    del entries[ENTRY]
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _settings(card: Mapping[str, Any]) -> dict[str, Any]:
    settings = card.get("settings")
    kept = dict(settings) if isinstance(settings, dict) else {}
    kept.pop("data_sha256", None)  # of the base: what counts is what the adapter was trained on
    return {**kept, "patched": True}
