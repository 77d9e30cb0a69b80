"""An exported base whose graph takes an adapter as inputs, and the values of these inputs for an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from visionlora.adapters import ArrayAdapter
from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.folded_base import ENTRY
from visionlora.adapters.methods import IA3, Arrays, BitFit, DoRA, LoRA, Method
from visionlora.adapters.shapes import GAIN, tensors_of
from visionlora.cards import family_in, make_card
from visionlora.errors import AdapterError, UsageError
from visionlora.patching.base import PREFIX, PatchableBase
from visionlora.patching.graph import CLASSES, resize_classes
from visionlora.patching.weights import fitted, patched_weights
from visionlora.tasks import task_on

A, B, FACTOR, WEIGHT, BIAS = "lora_A", "lora_B", "factor", "weight", "bias"
INPUTS_SETTING = "adapter_inputs"
"""The setting in the card of such a graph: how its inputs are named and used."""
INPUTS_VERSION = 1
_SHORT = 8  # digits of a fingerprint: enough to tell two bases apart
Vector = NDArray[np.float32]


def graph_with_inputs(base: PatchableBase) -> onnx.ModelProto:
    """Return the base's graph with an adapter as optional inputs; without any it computes what the base does.

    A layer's weight W (outputs, inputs x kernel) becomes `factor * (lora_B @ lora_A + W)`, its bias is replaced. The
    class outputs' weight and bias are replaced, by those of any number of classes. `lora_A` (rank, inputs x kernel) and
    `lora_B` (outputs, rank) are of any rank, a layer its own; `factor` is (outputs, 1). An input is called as
    `input_name` says.

    Side branches with the factors as two convolutions, as is usual for language models, take a little longer
    (benchmarks/onnx_adapter), and grouped layers cannot have them.

    Raises:
        ModelError: the graph's head is not one that visionlora exports.
    """
    model = onnx.ModelProto()
    model.CopyFrom(base.model)
    graph, heads = model.graph, base.folded.class_outputs
    resize_classes(graph, [f"{PREFIX}{layer}.weight" for layer in heads], len(base.names), None, str(base.path))
    constants = {tensor.name: tensor for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    computed: dict[str, str] = {}  # weight -> its layer
    for layer in base.weights:
        weight, bias = (f"{PREFIX}{layer}.{part}" for part in ("weight", "bias"))
        rows = CLASSES if layer in heads else len(base.weights[layer])
        renamed[bias] = input_name(base, layer, BIAS)
        _add_input(graph, renamed[bias], (rows,))
        if layer in heads:
            renamed[weight] = input_name(base, layer, WEIGHT)
            _add_input(graph, renamed[weight], (rows, *base.weights[layer].shape[1:]))
        else:
            computed[weight] = layer
            _add_factors(graph, base, layer)
            constants[weight].dims[:] = [rows, base.weights[layer][0].size]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:  # each weight right before it is used: fewer of them in memory at once
        for name in [each for each in node.input if each in computed]:
            layer = computed.pop(name)
            renamed[name] = input_name(base, layer, "adapted")
            nodes += _weight_nodes(base, layer, name, renamed[name])
        node.input[:] = [renamed.get(each, each) for each in node.input]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _describe(model, base)
    return model


def input_name(base: PatchableBase, layer: str, part: str) -> str:
    """Return what an input is called: by its base too, so that onnxruntime refuses the adapter of another one."""
    return f"{base.folded.fingerprint[:_SHORT]}.{layer}.{part}"


def input_values(base: PatchableBase, adapter: ArrayAdapter) -> dict[str, Vector]:
    """Return what an adapter gives to the inputs of `graph_with_inputs`; of layers that it leaves alone, nothing.

    Raises:
        AdapterError: the adapter is for another base, image size or activation, or its tensors do not fit.
        UsageError: it is of a method whose change is no product of two small factors, or belongs to a rounded base.
    """
    precision = adapter.card.settings.base_precision
    if precision != FLOAT32:
        raise UsageError(
            f"--format onnx-adapter: the adapter belongs to a base in {precision}, and the graph has it as it is; "
            "use visionlora patch, or merge and export it"
        )
    fitting, patched = fitted(base, adapter), patched_weights(base, adapter)
    method, heads = adapter.card.settings.method, base.folded.class_outputs
    values: dict[str, Vector] = {}
    for name, array in patched.items():
        layer, _, part = name.rpartition(".")
        if part == BIAS or layer in heads:
            values[input_name(base, layer, part)] = array
    for layer in fitting.adapted:
        if layer in heads:  # they are inputs themselves
            continue
        weight, norm = base.weights[layer], base.folded.norms.get(layer)
        own = tensors_of(method, layer, weight.shape, fitting.tensors)
        parts = _parts(method, weight, own)
        if norm is not None and B in parts:
            parts[B] = norm.gain.astype(np.float64)[:, None] * parts[B]
        gain = fitting.tensors.get(f"{layer}{GAIN}")
        if gain is not None:
            scaled = 1 + gain.astype(np.float64)[:, None]
            parts[FACTOR] = scaled * parts[FACTOR] if FACTOR in parts else scaled
        with np.errstate(over="ignore"):  # refused below
            values |= {input_name(base, layer, part): array.astype(np.float32) for part, array in parts.items()}
    broken = sorted(name for name, array in values.items() if not np.isfinite(array).all())
    if broken:
        raise AdapterError(f"{len(broken)} inputs are not finite in float32, the first is {broken[0]}")
    return values


def _parts(method: Method, weight: Vector, own: Arrays) -> dict[str, NDArray[np.float64]]:
    """Return factors and factor of a layer, before its batch normalization, in float64.

    Raises:
        UsageError: the method is another.
    """
    if isinstance(method, IA3):
        return {FACTOR: 1 + own["ia3_delta"].astype(np.float64)[:, None]}
    if isinstance(method, BitFit):
        return {}
    if not isinstance(method, LoRA | DoRA):
        raise UsageError(
            f"--format onnx-adapter: the change that {method.name} makes is no product of two small factors, which the "
            "graph takes; use visionlora patch, or merge and export it"
        )
    if isinstance(method, DoRA):
        return {**_factors(method.direction, own), FACTOR: method.factor(weight, own)[:, None]}
    return _factors(method, own)


def _factors(method: LoRA, own: Arrays) -> dict[str, NDArray[np.float64]]:
    """Return B with its scale, and A; a change at full rank is a product with the identity, whichever is smaller."""
    matrices = {name: tensor.reshape(len(tensor), -1).astype(np.float64) for name, tensor in own.items()}
    if "delta" in matrices:
        change = matrices["delta"]
        outputs, inputs = change.shape
        return {B: np.eye(outputs), A: change} if outputs <= inputs else {B: change, A: np.eye(inputs)}
    return {B: matrices[B] * method.scale(len(matrices[A])), A: matrices[A]}


def _add_input(graph: onnx.GraphProto, name: str, shape: tuple[int | str, ...]) -> None:
    graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _add_factors(graph: onnx.GraphProto, base: PatchableBase, layer: str) -> None:
    """Add the inputs of a layer, with defaults that change nothing."""
    outputs, inputs = len(base.weights[layer]), base.weights[layer][0].size
    rank = f"rank of {layer}"
    defaults: Mapping[str, tuple[tuple[int | str, ...], Vector]] = {
        A: ((rank, inputs), np.zeros((1, inputs), np.float32)),
        B: ((outputs, rank), np.zeros((outputs, 1), np.float32)),
        FACTOR: ((outputs, 1), np.ones((outputs, 1), np.float32)),
    }
    for part, (shape, default) in defaults.items():
        name = input_name(base, layer, part)
        _add_input(graph, name, shape)
        graph.initializer.append(numpy_helper.from_array(default, name))
    shape_of = np.array(base.weights[layer].shape)
    graph.initializer.append(numpy_helper.from_array(shape_of, input_name(base, layer, "shape")))


def _weight_nodes(base: PatchableBase, layer: str, weight: str, out: str) -> list[onnx.NodeProto]:
    left, right, factor, total, scaled, shape = (
        input_name(base, layer, part) for part in (B, A, FACTOR, "sum", "scaled", "shape")
    )
    return [
        helper.make_node("Gemm", [left, right, weight], [total]),
        helper.make_node("Mul", [total, factor], [scaled]),
        helper.make_node("Reshape", [scaled, shape], [out]),
    ]


def _describe(model: onnx.ModelProto, base: PatchableBase) -> None:
    """Say what the file is now; no adapter can be patched into it any more."""
    settings = base.card.get("settings")
    card = make_card(
        "onnx",
        names=base.names,
        image_size=base.image_size,
        parents={"base_onnx": base.sha256, "base": base.folded.fingerprint},
        settings={**(settings if isinstance(settings, dict) else {}), INPUTS_SETTING: INPUTS_VERSION},
        task=task_on(base.card, "the base"),
        family=family_in(base.card),
    )
    entries = {entry.key: entry.value for entry in model.metadata_props if entry.key != ENTRY}
    helper.set_model_props(model, {**entries, "visionlora": json.dumps(card, sort_keys=True)})
