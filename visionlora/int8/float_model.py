"""Reading the float graph that is to be quantized."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from visionlora.errors import ModelError
from visionlora.formats.seal import unseal
from visionlora.int8.decode import simplify_decode
from visionlora.tasks import Task

_OLDEST_OPSET = 13  # the first with scales for each channel


def load_float_model(path: Path | str | IO[bytes], task: Task) -> onnx.ModelProto:
    """Read a sound ONNX file, on a disk or in memory, whose graph can be quantized.

    Constants become initializers, and the decoding of its task the cheaper one.

    Raises:
        ModelError: the file is quantized already, not in float32, for a batch greater than 1, older than opset 13, has
            sub-graphs, weights in another file or of an adapter, or batch normalization behind its convolutions; all
            problems at once.
    """
    model = onnx.load(path, load_external_data=False)
    unseal(model)
    problems = _problems(model)
    if problems:
        raise ModelError(f"{path}: cannot be quantized: {'; '.join(problems)}")
    lift_constants(model.graph)
    simplify_decode(model.graph, task)
    if not task.boxes:
        _linear_to_conv(model.graph)
    return model


def _linear_to_conv(graph: onnx.GraphProto) -> None:
    """Write a linear layer behind the mean over a picture as a 1 x 1 convolution, which becomes int8 as all others.

    Of a classifier of many classes it holds most of the weights. The sums are the same.
    """
    producer = {node.output[0]: node for node in graph.node}
    readers = Counter(name for node in graph.node for name in node.input)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        flat = producer.get(node.input[0]) if node.op_type == "Gemm" and len(node.input) == 3 else None
        pooled = producer.get(flat.input[0]) if flat is not None and flat.op_type == "Flatten" else None
        plain = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **plain}
        fits = plain == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
        if not fits or flat is None or pooled is None or pooled.op_type != "GlobalAveragePool":
            nodes.append(node)
            continue
        weight = weights.get(node.input[1])
        if weight is None or readers[node.input[1]] > 1 or readers[flat.output[0]] > 1:
            nodes.append(node)
            continue
        weight.dims.extend([1, 1])  # (classes, channels) -> (classes, channels, 1, 1)
        nodes.remove(flat)
        maps = f"{node.output[0]}_map"  # (n, classes, 1, 1)
        conv = [pooled.output[0], *node.input[1:]]
        nodes.append(helper.make_node("Conv", conv, [maps], name=node.name, kernel_shape=[1, 1]))
        nodes.append(helper.make_node("Flatten", [maps], [node.output[0]], name=flat.name, axis=1))
    del graph.node[:]
    graph.node.extend(nodes)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operations in a model."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _problems(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    operations = {node.op_type for node in graph.node}
    image = graph.input[0].type.tensor_type
    batch = image.shape.dim[0] if len(image.shape.dim) else None
    nested = {AttributeProto.GRAPH, AttributeProto.GRAPHS}
    problems = []
    if operations & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}:
        problems.append("expected a float model, got a quantized one")
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    if image.elem_type != onnx.TensorProto.FLOAT or halves:
        problems.append("expected float32 throughout; export without half precision")
    if batch is not None and batch.HasField("dim_value") and batch.dim_value != 1:
        problems.append(f"expected a batch of 1 or a dynamic one, got {batch.dim_value}; export with batch 1")
    if opset_of(model) < _OLDEST_OPSET:
        problems.append(f"expected opset {_OLDEST_OPSET} or later, got {opset_of(model)}; export with a later one")
    if model.functions or any(attribute.type in nested for node in graph.node for attribute in node.attribute):
        problems.append("expected one flat graph, got functions or sub-graphs")
    if any(uses_external_data(tensor) for tensor in graph.initializer):
        problems.append("expected one file with its weights, got some in another; export with external_data=False")
    if _takes_adapters(graph):
        problems.append("expected constant weights, got a graph for adapters; quantize a merged or patched one")
    convolved = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    if any(node.op_type == "BatchNormalization" and node.input[0] in convolved for node in graph.node):
        problems.append(
            "expected batch normalization folded into the convolutions, got it behind them; export the model in eval "
            "mode and optimized (model.eval(), optimize=True)"
        )
    return problems


def _takes_adapters(graph: onnx.GraphProto) -> bool:
    """Whether weights are computed from optional inputs, as `adapters export --format onnx-adapter` writes a graph."""
    optional = {value.name for value in graph.input} & {tensor.name for tensor in graph.initializer}
    products = {node.output[0] for node in graph.node if node.op_type == "Gemm" and not optional.isdisjoint(node.input)}
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for node in graph.node:  # in topological order
        if not products.isdisjoint(node.input):
            products.update(node.output)
    return not products.isdisjoint(weights)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes, and copies of constants, into initializers: what is constant is looked up in one place."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        tensor = None
        if node.op_type == "Constant":
            tensor = _constant_tensor(node.attribute[0])
        elif node.op_type == "Identity":
            tensor = constants.get(node.input[0])
        if tensor is None:
            kept.append(node)
            continue
        lifted = onnx.TensorProto()
        lifted.CopyFrom(tensor)
        lifted.name = node.output[0]
        constants[lifted.name] = lifted
        graph.initializer.append(lifted)
    del graph.node[:]
    graph.node.extend(kept)


def _constant_tensor(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return value
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(value, dtype=np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.array(value, dtype=np.int64))
    return None
