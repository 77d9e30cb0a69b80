"""A picture as it lies in memory, for a graph that expects real numbers, channels first."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from visionlora.quantization.writer import GraphWriter


def pixels_of(image: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return the input (n, height, width, 3) uint8 that stands for one of (n, 3, height, width) float32."""
    n, channels, height, width = _sizes(image)
    return helper.make_tensor_value_info(image.name, onnx.TensorProto.UINT8, [n, height, width, channels])


def write_channels_first(to: GraphWriter, image: onnx.ValueInfoProto) -> str:
    """Write the step from (n, height, width, 3) uint8 to (n, 3, height, width) uint8.

    Args:
        to: the graph.
        image: the float graph's input.
    """
    _, channels, height, width = _sizes(image)
    if not isinstance(height, int) or not isinstance(width, int):
        return to.add("Transpose", [image.name], perm=[0, 3, 1, 2])
    # As a matrix: onnxruntime would move a plain transposition of images behind what follows, where it costs more.
    flat = to.add("Reshape", [image.name, to.constant(np.array([-1, height * width, channels]))])
    turned = to.add("Transpose", [flat], perm=[0, 2, 1])
    return to.add("Reshape", [turned, to.constant(np.array([-1, channels, height, width]))])


def _sizes(image: onnx.ValueInfoProto) -> list[int | str | None]:
    dimensions = image.type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else each.dim_param or None for each in dimensions]
