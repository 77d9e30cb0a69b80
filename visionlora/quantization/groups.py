"""The convolutions of a detector in groups that get finer numbers together: its blocks, the branches of its head."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx

from visionlora.errors import QuantizationError
from visionlora.int8.plan import layer_name
from visionlora.quantization.calibration import bytes_of_tensors

_FLOAT_BYTES = 4
_BLOCK_DEPTH, _BRANCH_DEPTH = 2, 3  # parts of /model/model.23/cv2.0/cv2.0.0/conv/Conv


@dataclass(frozen=True)
class LayerGroup:
    """Convolutions whose numbers are of one kind.

    Attributes:
        name: what the names of its layers have in common.
        layers: their names, in the order of the graph.
        multiply_adds: of all of them, for one image. On a CPU the time that a layer loses in float grows with it.
        weights: numbers in them, each of which needs 4 bytes in float and 1 in int8.
    """

    name: str
    layers: tuple[str, ...]
    multiply_adds: int
    weights: int


def layer_groups(model: onnx.ModelProto, convs: Collection[str], image_size: int) -> tuple[LayerGroup, ...]:
    """Group convolutions by the block of the network that their names say they lie in.

    Blocks that hold a last convolution (the head) are split into branches. A convolution whose name is no path, as
    another exporter may write it, is a group of its own.

    Args:
        model: the float model, as `load_float_model` reads it.
        convs: names of the layers to group.
        image_size: side of the input in pixels.

    Returns:
        The groups in the order of the graph.

    Raises:
        QuantizationError: the size of an activation cannot be told beforehand.
    """
    nodes = [node for node in model.graph.node if layer_name(node) in convs]
    sizes = bytes_of_tensors(model, (1, 3, image_size, image_size))
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    heads = {_path(layer_name(node))[:_BLOCK_DEPTH] for node in _last(model.graph.node, nodes)}
    members: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
    for node in nodes:
        path = _path(layer_name(node))
        depth = _BRANCH_DEPTH if path[:_BLOCK_DEPTH] in heads else _BLOCK_DEPTH
        members.setdefault(path[:depth], []).append(node)
    groups = []
    for path, of_group in members.items():
        unknown = [layer_name(node) for node in of_group if node.output[0] not in sizes or node.input[1] not in weights]
        if unknown:
            raise QuantizationError(f"expected layers of a known size, got none for {', '.join(unknown)}")
        shapes = [weights[node.input[1]] for node in of_group]  # (outputs, inputs / groups, ...)
        groups.append(
            LayerGroup(
                name="/".join(path[1:] or path),
                layers=tuple(layer_name(node) for node in of_group),
                multiply_adds=sum(
                    sizes[node.output[0]] // _FLOAT_BYTES * math.prod(shape[1:])
                    for node, shape in zip(of_group, shapes, strict=True)
                ),
                weights=sum(math.prod(shape) for shape in shapes),
            )
        )
    return tuple(groups)


def _path(name: str) -> tuple[str, ...]:
    """Return the modules that a layer lies in, the outermost first; its own name where that is no path."""
    return tuple(name.strip("/").split("/")[:-1]) or (name,)


def _last(nodes: Sequence[onnx.NodeProto], convs: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the convolutions that no other one depends on."""
    names = {layer_name(node) for node in convs}
    needed: set[str] = set()
    last = []
    for node in reversed(nodes):  # in topological order
        is_conv = layer_name(node) in names
        if is_conv and needed.isdisjoint(node.output):
            last.append(node)
        if is_conv or not needed.isdisjoint(node.output):
            needed.update(node.input)
    return last
