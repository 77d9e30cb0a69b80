"""Writing an int8 graph in ONNX's neutral form: the float graph with QuantizeLinear and DequantizeLinear in it.

A runtime computes `DequantizeLinear -> operation -> QuantizeLinear` in integers where it can, and exactly as written
where it cannot. So the file holds what is computed, and no operation of one runtime's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from visionlora.errors import QuantizationError
from visionlora.quantization.plan import QuantizationPlan, layer_name, plan_quantization
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
    """The graph written so far."""

    def __init__(self, graph: onnx.GraphProto, plan: QuantizationPlan, ranges: Mapping[str, ActivationRange]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._graph, self._ranges = graph, ranges
        self._convs, self._named = set(plan.convs), {*plan.convs, *plan.float_layers}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._taken = {*self._constants, *self._outputs, *(value.name for value in graph.input)}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._now = {"": ""}  # name of a float tensor -> who reads it reads this

    def write(self) -> None:
        """Write all nodes."""
        for value in self._graph.input:
            is_int8 = value.name in self._ranges
            self._now[value.name] = self._quantize(value.name, self._fresh("t"), value.name) if is_int8 else value.name
        for node in self._graph.node:
            self._write_node(node)

    def _write_node(self, node: onnx.NodeProto) -> None:
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.doc_string = ""
        written.name = layer_name(node) if layer_name(node) in self._named else ""
        constant_weights = all(name in self._constants for name in node.input[1:] if name)
        if layer_name(node) in self._convs and constant_weights:
            inputs = [self._now[node.input[0]], *self._conv_constants(node)]
        else:
            inputs = [self._read(name) for name in node.input]
        del written.input[:], written.output[:]
        written.input.extend(inputs)
        self.nodes.append(written)
        for name in node.output:
            final = name if name in self._outputs or not name else self._fresh("t")
            if name in self._ranges:
                written.output.append(self._fresh("t"))
                final = self._quantize(written.output[-1], final, name)
            else:
                written.output.append(final)
            self._now[name] = final

    def _read(self, name: str) -> str:
        return self._constant(self._constants[name]) if name in self._constants else self._now[name]

    def _quantize(self, source: str, target: str, tensor: str) -> str:
        """Write the step to the levels of a tensor and back."""
        chosen = self._ranges[tensor]
        constants = [self._constant(np.asarray(chosen.scale)), self._constant(np.asarray(chosen.zero_point))]
        levels = self._fresh("q")
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *constants], [levels]))
        self.nodes.append(helper.make_node("DequantizeLinear", [levels, *constants], [target]))
        return target

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
