"""A cheaper way to the same geometry: means over bins, without moving the bins through memory three times."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from visionlora.tasks import Task


@dataclass(frozen=True)
class _Decode:
    """The nodes from bins to their means, such as the sides of a box, as Ultralytics exports them.

    Attributes:
        count: how many numbers an anchor has, each of which is a mean.
        bins: (1, count * n, anchors), n logits a number.
        means: (1, count, anchors), the mean bin.
        weights: (n,) what each bin stands for.
        nodes: what computes one from the other.
        levels: (1, count * n, height, width) maps that `bins` is joined from, if nobody else reads it.
        joining: what joins them.
    """

    count: int
    bins: str
    means: str
    weights: np.ndarray
    nodes: list[onnx.NodeProto]
    levels: list[str]
    joining: list[onnx.NodeProto]


def simplify_decode(graph: onnx.GraphProto, task: Task) -> bool:
    """Rewrite the softmax over the bins of a task and the mean behind it; return whether the graph had them.

    Exporters put the bins in the second of four dimensions, over which a softmax is slow, and take the mean with a
    convolution of one output. Here the bins are the last dimension: `MatMul(Softmax(x), bins)`, the same sum in
    another order (arXiv 2006.04388, eq. 5). It stays a softmax, which subtracts the largest logit: no exponent
    overflows, whatever the image shows.

    Args:
        graph: constants are initializers. It is changed in place; names of what remains stay.
        task: what the graph predicts.
    """
    found = _find(graph, task.binned)
    if found is None:
        return False
    gone = {node.output[0] for node in [*found.nodes, *found.joining]}
    first = next(index for index, node in enumerate(graph.node) if node.output[0] == found.means)
    nodes = list(graph.node)
    kept_before = [node for node in nodes[:first] if node.output[0] not in gone]
    kept_after = [node for node in nodes[first:] if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend([*kept_before, *_write(found, graph), *kept_after])
    used = {name for node in graph.node for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    shapes = [value for value in graph.value_info if value.name not in gone]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
    return True


def _find(graph: onnx.GraphProto, count: int) -> _Decode | None:
    producer = {name: node for node in graph.node for name in node.output}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def before(node: onnx.NodeProto | None, kind: str) -> onnx.NodeProto | None:
        found = producer.get(node.input[0]) if node is not None else None
        is_private = found is not None and found.op_type == kind and len(readers[found.output[0]]) == 1
        return found if is_private else None

    for mean in graph.node:
        if mean.op_type != "Conv" or len(mean.input) != 2 or mean.input[1] not in constants:
            continue
        softmax = before(mean, "Softmax")
        moved = before(softmax, "Transpose")
        split = before(moved, "Reshape")
        after = readers[mean.output[0]]
        if softmax is None or moved is None or split is None or [node.op_type for node in after] != ["Reshape"]:
            continue
        weight = numpy_helper.to_array(constants[mean.input[1]])
        sizes = numpy_helper.to_array(constants[split.input[1]]).tolist() if split.input[1] in constants else []
        is_mean = weight.shape == (1, weight.size, 1, 1) and sizes[1:3] == [count, weight.size]
        if not is_mean or _attribute(softmax, "axis") != 1 or _attribute(moved, "perm") != [0, 2, 1, 3]:
            continue
        joining = before(split, "Concat")
        levels = [] if joining is None else [producer.get(name) for name in joining.input]
        flat = [node for node in levels if node is not None and node.op_type == "Reshape"]
        is_private = len(flat) == len(levels) and all(len(readers[node.output[0]]) == 1 for node in flat)
        if joining is None or not is_private or _attribute(joining, "axis") not in (-1, 2):
            flat, between = [], []
        else:
            between = [*flat, joining]
        return _Decode(
            count=count,
            bins=split.input[0],
            means=after[0].output[0],
            weights=weight.reshape(-1),
            nodes=[split, moved, softmax, mean, after[0]],
            levels=[node.input[0] for node in flat],
            joining=between,
        )
    return None


def _write(decode: _Decode, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Write the nodes that replace a decode, and add their constants to the graph."""
    prefix = f"{decode.means}/mean"
    bins = decode.weights.size

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{prefix}/{name}.value"))
        return f"{prefix}/{name}.value"

    nodes: list[onnx.NodeProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    if decode.levels:
        flat = constant("flat", np.array([1, -1, decode.count * bins]))
        rows = []
        for index, level in enumerate(decode.levels):
            last = node("Transpose", [level], f"{prefix}/last{index}", perm=[0, 2, 3, 1])
            rows.append(node("Reshape", [last, flat], f"{prefix}/rows{index}"))
        joined = node("Concat", rows, f"{prefix}/joined", axis=1)
    else:
        joined = node("Transpose", [decode.bins], f"{prefix}/joined", perm=[0, 2, 1])
    split = node("Reshape", [joined, constant("split", np.array([1, -1, decode.count, bins]))], f"{prefix}/split")
    share = node("Softmax", [split], f"{prefix}/share", axis=-1)
    weights = constant("bins", decode.weights.astype(np.float32)[:, None])
    mean = node("MatMul", [share, weights], f"{prefix}/mean")
    sides = node("Reshape", [mean, constant("sides", np.array([1, -1, decode.count]))], f"{prefix}/sides")
    node("Transpose", [sides], decode.means, perm=[0, 2, 1])
    return nodes


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)
