"""Writing an int8 graph in ONNX's neutral form: the float graph with QuantizeLinear and DequantizeLinear in it.

A runtime computes `DequantizeLinear -> operation -> QuantizeLinear` in integers where it can, and exactly as written
where it cannot. So the file holds what is computed, and no operation of one runtime's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from visionlora.errors import QuantizationError
from visionlora.quantization.plan import (
    PASS_THROUGH,
    QuantizationPlan,
    data_inputs,
    data_outputs,
    layer_name,
    plan_quantization,
)
from visionlora.quantization.ranges import ActivationRange
from visionlora.quantization.recipe import QuantizationRecipe
from visionlora.quantization.weights import quantize_conv


def apply_recipe(model: onnx.ModelProto, recipe: QuantizationRecipe) -> onnx.ModelProto:
    """Return the int8 graph of a float one, without metadata.

    Inputs, outputs, names of the layers and of the weights stay. All other names become short and equal constants
    one: in a nano detector they would be a tenth of the file.

    Args:
        model: the float model, as `load_float_model` reads it.
        recipe: what stays float, and the range of each tensor that does not. A convolution whose weights are not
            constant is left float.

    Raises:
        QuantizationError: the recipe is of another graph: it lacks a tensor, or names a layer that is none.
    """
    plan = plan_quantization(model.graph, float_layers=recipe.float_layers)
    tensors = [name for group in plan.groups for name in group.tensors]
    missing = [name for name in tensors if name not in recipe.ranges]
    if missing:
        raise QuantizationError(
            f"expected a recipe for this graph, got one without a range for {len(missing)} of its {len(tensors)} "
            f"tensors ({', '.join(missing[:3])}); calibrate the graph itself"
        )
    writer = _Writer(model.graph, plan, {name: recipe.ranges[name] for name in tensors})
    writer.write()
    graph = helper.make_graph(
        writer.nodes, "int8", model.graph.input, model.graph.output, list(writer.initializers.values())
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


class _Writer:
    """The graph written so far.

    Each int8 activation exists as levels, and as real numbers where something reads those.
    """

    def __init__(self, graph: onnx.GraphProto, plan: QuantizationPlan, ranges: Mapping[str, ActivationRange]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._graph, self._ranges = graph, ranges
        self._convs, self._named = set(plan.convs), {*plan.convs, *plan.float_layers}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._taken = {*self._constants, *self._outputs, *(value.name for value in graph.input)}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._levels: dict[str, str] = {}  # name of a float tensor -> its levels
        self._now = {"": ""}  # name of a float tensor -> who reads it reads this

    def write(self) -> None:
        """Write all nodes."""
        for value in self._graph.input:
            if value.name in self._ranges:
                self._quantize(value.name, value.name)
            else:
                self._now[value.name] = value.name
        for node in self._graph.node:
            if node.op_type in PASS_THROUGH and self._is_moved(node):
                self._write_moved(node)
            else:
                self._write_node(node)

    def _is_moved(self, node: onnx.NodeProto) -> bool:
        """Whether a node moves values between tensors of one range: the levels themselves can be moved, then."""
        tensors = [*data_inputs(node), *data_outputs(node)]
        ranges = {self._ranges.get(name) for name in tensors}
        return len(ranges) == 1 and None not in ranges and not self._outputs.intersection(tensors)

    def _write_moved(self, node: onnx.NodeProto) -> None:
        data = set(data_inputs(node))
        inputs = [self._levels[name] if name in data else self._read(name) for name in node.input]
        outputs = [self._fresh("q") if name else "" for name in node.output]
        self._add(node, inputs, outputs)
        self._levels.update(zip(node.output, outputs, strict=True))

    def _write_node(self, node: onnx.NodeProto) -> None:
        constant_weights = all(name in self._constants for name in node.input[1:] if name)
        if layer_name(node) in self._convs and constant_weights:
            inputs = [self._read(node.input[0]), *self._conv_constants(node)]
        else:
            inputs = [self._read(name) for name in node.input]
        outputs = []
        for name in node.output:
            kept = not name or (name in self._outputs and name not in self._ranges)
            outputs.append(name if kept else self._fresh("t"))
        self._add(node, inputs, outputs)
        for name, written in zip(node.output, outputs, strict=True):
            if name in self._ranges:
                self._quantize(written, name)
            else:
                self._now[name] = written

    def _add(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a node with other names."""
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.doc_string = ""
        written.name = layer_name(node) if layer_name(node) in self._named else ""
        del written.input[:], written.output[:]
        written.input.extend(inputs)
        written.output.extend(outputs)
        self.nodes.append(written)

    def _read(self, name: str) -> str:
        """Return what to read for the real numbers of a tensor."""
        if name in self._constants:
            return self._constant(self._constants[name])
        if name not in self._now:
            self._now[name] = self._fresh("t")
            self._add_dequantize(name, self._now[name])
        return self._now[name]

    def _quantize(self, source: str, tensor: str) -> None:
        """Write the step to the levels of a tensor."""
        self._levels[tensor] = self._fresh("q")
        inputs = [source, *self._range_constants(tensor)]
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [self._levels[tensor]]))
        if tensor in self._outputs:
            self._now[tensor] = tensor
            self._add_dequantize(tensor, tensor)

    def _add_dequantize(self, tensor: str, target: str) -> None:
        inputs = [self._levels[tensor], *self._range_constants(tensor)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [target]))

    def _range_constants(self, tensor: str) -> list[str]:
        chosen = self._ranges[tensor]
        return [self._constant(np.asarray(chosen.scale)), self._constant(np.asarray(chosen.zero_point))]

    def _conv_constants(self, node: onnx.NodeProto) -> list[str]:
        """Write weight and bias of a convolution; return what it reads."""
        has_bias = len(node.input) > 2 and node.input[2]
        quantized = quantize_conv(
            self._constants[node.input[1]],
            self._constants[node.input[2]] if has_bias else None,
            self._ranges[node.input[0]].scale,
        )
        read = [self._dequantize(quantized.weight, quantized.scale, node.input[1])]
        if quantized.bias is not None:
            read.append(self._dequantize(quantized.bias, quantized.bias_scale))
        return read

    def _dequantize(self, levels: NDArray[np.generic], scale: NDArray[np.float32], name: str = "") -> str:
        """Write constants with a scale for each channel; symmetric, so there is no zero point."""
        target = self._fresh("t")
        inputs = [self._constant(levels, name), self._constant(scale)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [target], axis=0))
        return target

    def _constant(self, array: NDArray[np.generic], name: str = "") -> str:
        """Return the name of an initializer with this content."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_content:
            name = name if name and name not in self.initializers else self._fresh("c")
            self._by_content[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._by_content[key]

    def _fresh(self, prefix: str) -> str:
        index = len(self._taken)
        while f"{prefix}{index}" in self._taken:
            index += 1
        self._taken.add(f"{prefix}{index}")
        return f"{prefix}{index}"
