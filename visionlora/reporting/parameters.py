"""How many numbers a model's weights hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionlora.formats.kinds import ONNX
from visionlora.models import ModelSpec
from visionlora.vision.inference import Network

_SCALES = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2)}  # inputs that are scales and zero points
_SHAPES = {"Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Resize": (1, 2, 3), "Expand": (1,), "Tile": (1,)}


def count_parameters(spec: ModelSpec, network: Network) -> int | None:
    """Return how many numbers the weights hold; None where the network is of an unknown kind.

    Those of an adapter are in its own file, of a checkpoint with batch normalization folded, of an ONNX file without
    shapes, scales, multipliers and zero points.
    """
    if spec.adapter is not None:
        return _adapter_parameters(spec.adapter)
    if spec.kind is ONNX:
        return _onnx_parameters(spec.path)
    detector: Any = getattr(network, "detector", None)
    return None if detector is None else sum(parameter.numel() for parameter in detector.parameters())


def _adapter_parameters(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(_product(shape) for shape in shapes)


def _onnx_parameters(path: Path) -> int:
    import onnx

    graph = onnx.load(str(path)).graph
    multipliers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT4}
    other = {
        node.input[index]
        for node in graph.node
        for index in (*_SCALES.get(node.op_type, ()), *_SHAPES.get(node.op_type, ()))
        if index < len(node.input)
    }
    return sum(_product(tensor.dims) for tensor in graph.initializer if tensor.name not in other | multipliers)


def _product(shape: Any) -> int:
    count = 1
    for side in shape:
        count *= int(side)
    return count
