"""The ONNX operations that a detector's network is made of, in torch. What is not here is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch.nn import functional

from visionlora.errors import QuantizationError

Operation = Callable[..., "torch.Tensor | Sequence[torch.Tensor]"]
Constants = Mapping[str, NDArray[Any]]


def operation_of(node: onnx.NodeProto, constants: Constants) -> Operation:
    """Return a function of a node's activations, in their order, that does what the node does.

    Shapes, indices and the like are constants and bound now. A leading 1 in the target of a Reshape is the batch.

    Raises:
        QuantizationError: the operation, or the way it is used, is not known here.
    """
    if node.op_type not in _MAKERS:
        raise _refusal(node, f"{node.op_type} is not an operation that can be trained through")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return _MAKERS[node.op_type](node, attributes, constants)


def convolution(node: onnx.NodeProto) -> Operation:
    """Return a function of input, weight and bias (or None) that does what a Conv or ConvTranspose node does.

    Raises:
        QuantizationError: its padding is not plain.
    """
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _refusal(node, f"auto_pad {attributes['auto_pad'].decode()}; expected explicit pads")
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    half = len(pads) // 2
    begin, end = pads[:half], pads[half:]
    if half != 2:
        raise _refusal(node, f"expected a convolution over pictures, got {half} axes")
    stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    groups = int(attributes.get("group", 1))
    if node.op_type == "ConvTranspose":
        return _transposed(node, attributes, begin, end)
    uneven = begin != end
    padding = [0, 0] if uneven else begin

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if uneven:
            x = functional.pad(x, (begin[1], end[1], begin[0], end[0]))
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return run


def _transposed(
    node: onnx.NodeProto, attributes: Mapping[str, Any], begin: Sequence[int], end: Sequence[int]
) -> Operation:
    if begin != end or "output_shape" in attributes:
        raise _refusal(node, "expected even pads and no output_shape")
    stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    more, groups = attributes.get("output_padding", [0, 0]), int(attributes.get("group", 1))

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv_transpose2d(x, weight, bias, stride, begin, more, groups, dilation)

    return run


def _refusal(node: onnx.NodeProto, why: str) -> QuantizationError:
    return QuantizationError(f"layer {node.name or node.output[0]}: {why}")


def _constant(node: onnx.NodeProto, index: int, constants: Constants) -> NDArray[Any]:
    name = node.input[index]
    if name not in constants:
        raise _refusal(node, f"expected input {index} of {node.op_type} to be constant")
    return constants[name]


def _plain(function: Callable[..., torch.Tensor]) -> Callable[..., Operation]:
    return lambda node, attributes, constants: function


def _softmax(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    axis = int(attributes.get("axis", -1))
    return lambda x: torch.softmax(x, axis)


def _concat(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    axis = int(attributes["axis"])
    return lambda *parts: torch.cat(parts, axis)


def _transpose(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    axes = list(attributes["perm"])
    return lambda x: x.permute(axes)


def _reshape(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    shape = [int(side) for side in _constant(node, 1, constants)]
    if attributes.get("allowzero", 0) or 0 in shape:
        raise _refusal(node, f"Reshape to {shape}: zeros are not supported")

    def run(x: torch.Tensor) -> torch.Tensor:
        return x.reshape([len(x), *shape[1:]] if shape[0] == 1 else shape)

    return run


def _split(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    axis = int(attributes.get("axis", 0))
    if len(node.input) > 1 and node.input[1]:
        sizes = [int(size) for size in _constant(node, 1, constants)]
        return lambda x: x.split(sizes, axis)
    return lambda x: x.chunk(len(node.output), axis)


def _slice(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    starts, ends = ([int(value) for value in _constant(node, index, constants)] for index in (1, 2))
    axes = [int(value) for value in _constant(node, 3, constants)] if len(node.input) > 3 else list(range(len(starts)))
    steps = [int(value) for value in _constant(node, 4, constants)] if len(node.input) > 4 else [1] * len(starts)
    if any(step < 1 for step in steps):
        raise _refusal(node, f"Slice with steps {steps}")

    def run(x: torch.Tensor) -> torch.Tensor:
        index = [slice(None)] * x.dim()
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            index[axis] = slice(start, end, step)
        return x[tuple(index)]

    return run


def _max_pool(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    kernel, pads = list(attributes["kernel_shape"]), list(attributes.get("pads", [0, 0, 0, 0]))
    strides = list(attributes.get("strides", [1, 1]))
    plain = not attributes.get("ceil_mode", 0) and pads[:2] == pads[2:] and len(kernel) == 2
    if not plain or set(attributes.get("dilations", [1])) != {1} or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _refusal(node, "MaxPool with uneven padding, dilation or ceil_mode")
    return lambda x: functional.max_pool2d(x, kernel, strides, pads[:2])


def _resize(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    nearest = attributes.get("mode", b"nearest") == b"nearest" and attributes.get("nearest_mode") == b"floor"
    asymmetric = attributes.get("coordinate_transformation_mode") == b"asymmetric"
    scales = _constant(node, 2, constants).tolist() if len(node.input) == 3 else []
    if not (nearest and asymmetric and len(scales) == 4 and scales[:2] == [1.0, 1.0]):
        raise _refusal(node, "expected Resize to the nearest pixel (floor, asymmetric) by constant scales")
    return lambda x: functional.interpolate(x, scale_factor=scales[2:], mode="nearest")


def _clip(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants) -> Operation:
    low, high = (float(np.asarray(_constant(node, index, constants))) for index in (1, 2))
    return lambda x: x.clamp(low, high)


_MAKERS: Mapping[str, Callable[..., Operation]] = {
    "Add": _plain(torch.add),
    "Clip": _clip,
    "Concat": _concat,
    "Div": _plain(torch.div),
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sub": _plain(torch.sub),
    "Transpose": _transpose,
}
