"""Reading the float graph that is to be quantized."""

from __future__ import annotations

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
    return model


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
