"""Writing an int8 graph in ONNX's neutral form: the float graph with QuantizeLinear and DequantizeLinear in it.

A runtime computes `DequantizeLinear -> operation -> QuantizeLinear` in integers where it can, and exactly as written
where it cannot. So the file holds what is computed, and no operation of one runtime's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, version_converter

from visionlora.errors import QuantizationError
from visionlora.int8.float_model import lift_constants, opset_of
from visionlora.int8.kernels import (
    gains_fourth_channel,
    is_doubling,
    multiples_of_half,
    shapes_of,
    with_fourth_input,
    write_doubling,
    write_fourth_channel,
)
from visionlora.int8.pixels import pixels_of, write_channels_first
from visionlora.int8.plan import PASS_THROUGH, QuantizationPlan, data_inputs, data_outputs, layer_name
from visionlora.int8.ranges import UNIT_RANGE, ActivationRange
from visionlora.int8.recipe import QuantizationRecipe
from visionlora.int8.weights import Int4Weight, quantize_conv
from visionlora.int8.writer import GraphWriter

_INT4_OPSET, _INT4_IR = 21, 10  # the first versions of operations and of the file with 4-bit constants


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
    if recipe.scheme.weights == "int4":
        model = _with_int4(model)
    plan = recipe.plan_for(model.graph)
    tensors = [name for group in plan.groups for name in group.tensors]
    missing = [name for name in tensors if name not in recipe.ranges]
    if missing:
        raise QuantizationError(
            f"expected a recipe for this graph, got one without a range for {len(missing)} of its {len(tensors)} "
            f"tensors ({', '.join(missing[:3])}); calibrate the graph itself"
        )
    writer = _Quantizer(model, plan, {name: recipe.ranges[name] for name in tensors}, recipe)
    writer.write()
    return writer.model()


def _with_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in a version of ONNX that has int4.

    Raises:
        QuantizationError: an operation cannot be written in it.
    """
    if opset_of(model) < _INT4_OPSET:
        try:
            model = version_converter.convert_version(model, _INT4_OPSET)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise QuantizationError(
                f"int4 weights need opset {_INT4_OPSET}, and this graph cannot be written in it: {reason}; export "
                "another, or take int8 weights"
            ) from error
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    lift_constants(raised.graph)  # what was an attribute before may be one now
    raised.ir_version = max(model.ir_version, _INT4_IR)
    return raised


class _Quantizer:
    """The int8 graph written so far.

    Each int8 activation exists as levels, and as real numbers where something reads those.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        plan: QuantizationPlan,
        ranges: Mapping[str, ActivationRange],
        recipe: QuantizationRecipe,
    ) -> None:
        self._model, self._graph, self._ranges = model, model.graph, ranges
        self._scheme, self._takes_pixels = recipe.scheme, recipe.image == "uint8"
        self._convs, self._named = set(plan.convs), {*plan.convs, *plan.float_layers}
        self._int4 = plan.int4
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer}
        self._outputs = {value.name for value in self._graph.output}
        inputs = [value.name for value in self._graph.input]
        self._to = GraphWriter({*self._constants, *self._outputs, *inputs})
        self._levels: dict[str, str] = {}  # name of a float tensor -> its levels
        self._four: dict[str, str] = {}  # name of a picture -> its levels with a fourth channel
        self._now = {"": ""}  # name of a float tensor -> who reads it reads this
        self._shapes = shapes_of(model) if self._scheme.rewrites else {}

    def write(self) -> None:
        """Write all nodes."""
        for value in self._graph.input:
            if self._takes_pixels:
                self._write_pixels(value)
            elif value.name in self._ranges:
                self._quantize(value.name, value.name)
            else:
                self._now[value.name] = value.name
        for node in self._graph.node:
            if self._scheme.rewrites and node.op_type in PASS_THROUGH and self._is_moved(node):
                self._write_moved(node)
            elif self._scheme.rewrites and self._clips_levels(node):
                self._write_clip(node)
            else:
                self._write_node(node)

    def model(self) -> onnx.ModelProto:
        """Return what was written."""
        constants = list(self._to.initializers.values())
        inputs = [pixels_of(image) for image in self._graph.input] if self._takes_pixels else self._graph.input
        graph = helper.make_graph(self._to.nodes, "int8", inputs, self._graph.output, constants)
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)

    def _write_pixels(self, image: onnx.ValueInfoProto) -> None:
        """Write the step from (n, S, S, 3) uint8 to what the float graph reads."""
        is_level = self._ranges.get(image.name) == UNIT_RANGE  # a pixel is its level
        if is_level and all(self._reads_four(node) for node in self._graph.node if image.name in node.input):
            self._four[image.name] = write_channels_first(self._to, image, padding=1)
            return
        levels = write_channels_first(self._to, image)
        if is_level:
            self._levels[image.name] = levels
            return
        pixel = [self._to.constant(np.asarray(each)) for each in (UNIT_RANGE.scale, UNIT_RANGE.zero_point)]
        self._now[image.name] = self._to.add("DequantizeLinear", [levels, *pixel])
        if image.name in self._ranges:
            self._quantize(self._now.pop(image.name), image.name)

    def _is_moved(self, node: onnx.NodeProto) -> bool:
        """Whether a node moves values between tensors of one range: the levels themselves can be moved, then."""
        tensors = [*data_inputs(node), *data_outputs(node)]
        ranges = {self._ranges.get(name) for name in tensors}
        return len(ranges) == 1 and None not in ranges and not self._outputs.intersection(tensors)

    def _write_moved(self, node: onnx.NodeProto) -> None:
        shape = self._shapes.get(node.output[0])
        if shape and is_doubling(node, self._constants):
            self._levels[node.output[0]] = write_doubling(self._to, self._levels[node.input[0]], shape)
            return
        data = set(data_inputs(node))
        inputs = [self._levels[name] if name in data else self._read(name) for name in node.input]
        outputs = [self._to.fresh("q") if name else "" for name in node.output]
        self._to.copy(node, self._name(node), inputs, outputs)
        self._levels.update(zip(node.output, outputs, strict=True))

    def _clips_levels(self, node: onnx.NodeProto) -> bool:
        """Whether a Relu has to be computed: the range of its output begins below zero, shared with other tensors."""
        chosen = self._ranges.get(node.output[0])
        below = chosen is not None and chosen.zero_point > np.iinfo(chosen.zero_point.dtype).min
        return bool(node.op_type == "Relu" and below and node.input[0] not in self._ranges)

    def _write_clip(self, node: onnx.NodeProto) -> None:
        """Write a Relu on levels: behind a Relu on real numbers onnxruntime would compute the convolution in float."""
        name = node.output[0]
        scale, zero = self._range_constants(name)
        rounded = self._to.add("QuantizeLinear", [self._read(node.input[0]), scale, zero], self._to.fresh("q"))
        self._levels[name] = self._to.add("Clip", [rounded, zero], self._to.fresh("q"))
        if name in self._outputs:
            self._now[name] = self._dequantize(self._levels[name], name, name)

    def _write_node(self, node: onnx.NodeProto) -> None:
        inputs = self._conv_inputs(node) if self._is_int8(node) else [self._read(name) for name in node.input]
        outputs = []
        for name in node.output:
            kept = not name or (name in self._outputs and name not in self._ranges)
            outputs.append(name if kept else self._to.fresh("t"))
        self._to.copy(node, self._name(node), inputs, outputs)
        for name, written in zip(node.output, outputs, strict=True):
            if name in self._ranges:
                self._quantize(written, name)
            else:
                self._now[name] = written

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution to run in int8, and can: its weights are constant."""
        return layer_name(node) in self._convs and all(name in self._constants for name in node.input[1:] if name)

    def _reads_four(self, node: onnx.NodeProto) -> bool:
        """Whether a node is to read its picture with a fourth channel."""
        has_kernels = self._scheme.rewrites and self._is_int8(node)
        return has_kernels and gains_fourth_channel(node, self._constants[node.input[1]])

    def _name(self, node: onnx.NodeProto) -> str:
        return layer_name(node) if layer_name(node) in self._named else ""

    def _read(self, name: str) -> str:
        """Return what to read for the real numbers of a tensor."""
        if name in self._now:
            return self._now[name]
        if name in self._levels:
            self._now[name] = self._dequantize(self._levels[name], name)
        else:
            self._now[name] = self._read_constant(self._constants[name])
        return self._now[name]

    def _read_constant(self, array: NDArray[np.generic]) -> str:
        """Write a constant; in a byte a number where that holds it, such as the centres of the anchors."""
        steps = multiples_of_half(array) if self._scheme.rewrites else None
        if steps is None:
            return self._to.constant(array)
        half = self._to.constant(np.asarray(np.float32(0.5)))
        return self._to.add("DequantizeLinear", [self._to.constant(steps), half])

    def _quantize(self, source: str, tensor: str) -> None:
        """Write the step to the levels of a tensor."""
        inputs = [source, *self._range_constants(tensor)]
        self._levels[tensor] = self._to.add("QuantizeLinear", inputs, self._to.fresh("q"))
        if tensor in self._outputs:
            self._now[tensor] = self._dequantize(self._levels[tensor], tensor, tensor)

    def _dequantize(self, levels: str, tensor: str, target: str = "") -> str:
        return self._to.add("DequantizeLinear", [levels, *self._range_constants(tensor)], target)

    def _range_constants(self, tensor: str) -> list[str]:
        chosen = self._ranges[tensor]
        return [self._to.constant(np.asarray(chosen.scale)), self._to.constant(np.asarray(chosen.zero_point))]

    def _conv_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Write weight and bias of a convolution; return what it reads."""
        source = node.input[0]
        has_bias = len(node.input) > 2 and node.input[2]
        quantized = quantize_conv(
            self._constants[node.input[1]],
            self._constants[node.input[2]] if has_bias else None,
            self._ranges[source].scale,
            self._int4.get(layer_name(node)),
            most=self._scheme.largest_weight,
        )
        if self._reads_four(node):
            if source not in self._four:
                self._four[source] = write_fourth_channel(self._to, self._levels[source])
            read = self._dequantize(self._four[source], source)
            weight = self._to.constant(with_fourth_input(quantized.weight), node.input[1])
        elif quantized.int4 is not None:
            read = self._read(source)
            weight = self._write_int4(quantized.int4, quantized.weight.shape, node.input[1])
        else:
            read = self._read(source)
            weight = self._to.constant(quantized.weight, node.input[1])
        inputs = [read, self._dequantize_constant(weight, quantized.scale)]
        if self._scheme.fuses and has_bias:
            inputs.append(self._read(node.input[2]))
        elif quantized.bias is not None:
            inputs.append(self._dequantize_constant(self._to.constant(quantized.bias), quantized.bias_scale))
        return inputs

    def _write_int4(self, weight: Int4Weight, shape: tuple[int, ...], name: str) -> str:
        """Write what makes an int8 weight of int4 levels and multipliers.

        onnxruntime computes it once, when it loads the file, and before it looks for integer convolutions. It would
        run a convolution behind DequantizeLinear of int4, or of blocks, in float.
        """
        parts = [self._to.constant_4bit(weight.levels, name), self._to.constant_4bit(weight.multiplier)]
        whole = [self._to.add("Cast", [part], to=onnx.TensorProto.INT32) for part in parts]
        product = self._to.add("Reshape", [self._to.add("Mul", whole), self._to.constant(np.array(shape))])
        return self._to.add("Cast", [product], to=onnx.TensorProto.INT8)

    def _dequantize_constant(self, levels: str, scale: NDArray[np.float32]) -> str:
        """Write constants with a scale for each channel; symmetric, so a missing zero point says it all."""
        return self._to.add("DequantizeLinear", [levels, self._to.constant(scale)], axis=0)
