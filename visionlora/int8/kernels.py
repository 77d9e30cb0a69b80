"""Rewrites of int8 operations for which onnxruntime has no fast kernel; each gives the same numbers to the bit.

Measured with onnxruntime 1.32 on x86. They cost some bytes in the file and are of no use to other runtimes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visionlora.int8.writer import GraphWriter

_LARGE = 256  # numbers; below, the node costs more than the constant


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each activation whose shape is fixed."""
    shapes = {}
    for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def is_doubling(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether a node repeats each pixel of an image once to the right and once below."""
    if node.op_type != "Resize" or len(node.input) != 3 or node.input[2] not in constants:
        return False
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    position = attributes.get("coordinate_transformation_mode", b"half_pixel")
    rounding = attributes.get("nearest_mode", b"round_prefer_floor")
    return (
        attributes.get("mode", b"nearest") == b"nearest"
        # Where an output pixel lies in the input: at 0, 0.5, 1 ..., or at -0.25, 0.25, 0.75 ...
        and (position, rounding) in ((b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"))
        and constants[node.input[2]].tolist() == [1, 1, 2, 2]
    )


def write_doubling(to: GraphWriter, levels: str, shape: Sequence[int]) -> str:
    """Write a doubling as copies of whole rows: onnxruntime's Resize looks up each value.

    Args:
        to: the graph.
        levels: (1, channels, height, width) int8 or uint8.
        shape: of the result.
    """
    _, channels, height, width = shape
    pixels = to.add("Transpose", [levels], perm=[0, 2, 3, 1])  # channels last, as the convolutions around have them
    twice = to.add("Concat", [pixels, pixels], axis=3)
    rows = to.add("Reshape", [twice, to.constant(np.array([1, height // 2, width * channels]))])
    both = to.add("Concat", [rows, rows], axis=2)
    image = to.add("Reshape", [both, to.constant(np.array([1, height, width, channels]))])
    return to.add("Transpose", [image], perm=[0, 3, 1, 2])


def gains_fourth_channel(node: onnx.NodeProto, weight: NDArray[np.generic]) -> bool:
    """Whether a convolution reads red, green and blue, and nothing in groups.

    onnxruntime's fast convolution takes channels by fours and copies the picture for another number: the first layer
    takes half the time with a fourth channel that no weight reads.
    """
    return weight.shape[1] == 3 and all(each.i == 1 for each in node.attribute if each.name == "group")


def write_fourth_channel(to: GraphWriter, levels: str) -> str:
    """Write a channel of zeros behind (n, 3, height, width) int8 or uint8."""
    return to.add("Pad", [levels, to.constant(np.array([0, 0, 0, 0, 0, 1, 0, 0]))])


def with_fourth_input(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return (outputs, 4, ...) weights of (outputs, 3, ...), the last zero."""
    return np.concatenate([weight, np.zeros_like(weight[:, :1])], axis=1)


def multiples_of_half(array: NDArray[np.generic]) -> NDArray[np.uint8] | None:
    """Return how many halves the numbers of a large constant are; None where it is small, or a byte cannot hold them.

    In a nano detector the centres of the anchors and their strides are a thirtieth of the file.
    """
    if array.dtype != np.float32 or array.size < _LARGE:
        return None
    halves = 2 * array.astype(np.float64)
    is_exact = np.all((halves >= 0) & (halves <= np.iinfo(np.uint8).max) & (halves == np.rint(halves)))
    return halves.astype(np.uint8) if is_exact else None
