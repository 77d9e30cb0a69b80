"""A picture as it lies in memory, for a graph that expects real numbers, channels first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from visionlora.int8.writer import GraphWriter


def pixels_of(image: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return the input (n, height, width, 3) uint8 that stands for one of (n, 3, height, width) float32."""
    n, channels, height, width = _sizes(image)
    return helper.make_tensor_value_info(image.name, onnx.TensorProto.UINT8, [n, height, width, channels])


def write_channels_first(to: GraphWriter, image: onnx.ValueInfoProto, *, padding: int = 0) -> str:
    """Write the step from (n, height, width, 3) uint8 to (n, 3 + padding, height, width) uint8.

    Args:
        to: the graph.
        image: the float graph's input.
        padding: channels of zeros behind the picture's own.
    """
    _, channels, height, width = _sizes(image)
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return _pad(to, to.add("Transpose", [image.name], perm=[0, 3, 1, 2]), [0, padding, 0, 0])
    # As a matrix: onnxruntime would move a plain transposition of images behind what follows, where it costs more. It
    # would move it past the padding of images, too.
    flat = to.add("Reshape", [image.name, to.constant(np.array([-1, height * width, channels]))])
    turned = _pad(to, to.add("Transpose", [flat], perm=[0, 2, 1]), [0, padding, 0])
    return to.add("Reshape", [turned, to.constant(np.array([-1, channels + padding, height, width]))])


def _pad(to: GraphWriter, levels: str, behind: Sequence[int]) -> str:
    """Write zeros behind each dimension, if there are any to write."""
    return to.add("Pad", [levels, to.constant(np.array([*[0] * len(behind), *behind]))]) if any(behind) else levels


def _sizes(image: onnx.ValueInfoProto) -> list[int | str | None]:
    dimensions = image.type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else each.dim_param or None for each in dimensions]
