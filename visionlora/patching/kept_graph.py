"""One graph with a base's path untouched and adapted paths beside it: cut out, joined, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

JOIN, BASE = "kept/", "base/"
"""What the names of the nodes begin with that join the paths, and the name of the base's output before that."""


def branch_of(base: onnx.GraphProto, patched: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """Return what a patched graph computes otherwise than its base: all behind a changed constant, under new names.

    What it reads of the base is under the base's own names, so that the two paths share it.

    Args:
        base: is not changed.
        patched: the base with an adapter in; is not changed.
        prefix: what the new names begin with.
    """
    before = {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in base.initializer}
    branch = onnx.GraphProto()
    for tensor in patched.initializer:
        if tensor.SerializeToString(deterministic=True) != before.get(tensor.name):
            branch.initializer.append(tensor)
    own = {tensor.name for tensor in branch.initializer}
    for node in patched.node:  # in topological order
        if not own.isdisjoint(node.input):
            branch.node.append(node)
            own.update(node.output)
    values = {value.name: value for value in (*patched.value_info, *patched.output)}
    branch.value_info.extend(value for name, value in values.items() if name in own)
    for named in (*branch.initializer, *branch.value_info, *branch.node):
        named.name = f"{prefix}{named.name}"
    for node in branch.node:
        node.input[:] = [f"{prefix}{name}" if name in own else name for name in node.input]
        node.output[:] = [f"{prefix}{name}" for name in node.output]
    return branch


def join(
    base: onnx.GraphProto, branches: Sequence[onnx.GraphProto], rows: Sequence[Sequence[int | None]]
) -> onnx.GraphProto:
    """Return the graph of a base and paths beside it, whose anchors follow each other.

    Args:
        base: with one output (1, rows, anchors); is not changed.
        branches: of the paths, as `branch_of` gives them; each ends in its output.
        rows: for each path, the base's first, which of its rows each row of the joined output is; None for zeros.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(base)
    output = graph.output[0]
    last = f"{BASE}{output.name}"
    for node in graph.node:
        node.output[:] = [last if name == output.name else name for name in node.output]
        node.input[:] = [last if name == output.name else name for name in node.input]
    graph.value_info.append(output)
    graph.value_info[-1].name = last
    for branch in branches:
        graph.node.extend(branch.node)
        graph.initializer.extend(branch.initializer)
        graph.value_info.extend(branch.value_info)
    ends = [last, *(branch.node[-1].output[0] for branch in branches)]
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 1, 0]), f"{JOIN}pads"))
    placed = []
    for number, (end, chosen) in enumerate(zip(ends, rows, strict=True)):
        zeros = shapes[end][1].dim_value  # the row behind the last one
        index = np.array([zeros if row is None else row for row in chosen])
        graph.initializer.append(numpy_helper.from_array(index, f"{JOIN}rows{number}"))
        padded, moved = f"{JOIN}padded{number}", f"{JOIN}placed{number}"
        graph.node.append(helper.make_node("Pad", [end, f"{JOIN}pads"], [padded], name=padded))
        graph.node.append(helper.make_node("Gather", [padded, f"{JOIN}rows{number}"], [moved], name=moved, axis=1))
        placed.append(moved)
    graph.node.append(helper.make_node("Concat", placed, [output.name], name=f"{JOIN}joined", axis=2))
    anchors = sum(shapes[end][2].dim_value for end in ends)
    for value in _of_name(graph, output.name):
        value.type.tensor_type.shape.dim[1].dim_value = len(rows[0])
        value.type.tensor_type.shape.dim[2].dim_value = anchors
    return graph


def _of_name(graph: onnx.GraphProto, name: str) -> list[onnx.ValueInfoProto]:
    """Return what a graph says of the type of an output: exporters may say it twice."""
    return [value for value in (*graph.value_info, *graph.output) if value.name == name]


def apart(graph: onnx.GraphProto, prefixes: Sequence[str]) -> tuple[onnx.GraphProto, list[onnx.GraphProto]]:
    """Return the base's graph and the branches that `join` has put together.

    Args:
        graph: is not changed.
        prefixes: of the branches.
    """
    base, branches = onnx.GraphProto(), [onnx.GraphProto() for _ in prefixes]
    base.CopyFrom(graph)
    output = base.output[0].name
    for entries in ("node", "initializer", "value_info"):
        del getattr(base, entries)[:]
        for entry in getattr(graph, entries):
            name = entry.output[0] if entries == "node" else entry.name
            home = next((branches[i] for i, prefix in enumerate(prefixes) if name.startswith(prefix)), base)
            is_join = name.startswith(JOIN) or (entries == "node" and name == output)
            if not is_join:
                getattr(home, entries).append(entry)
    for node in base.node:
        for names in (node.input, node.output):
            names[:] = [output if name == f"{BASE}{output}" else name for name in names]
    for said in _of_name(base, f"{BASE}{output}"):
        for value in _of_name(base, output):
            value.type.CopyFrom(said.type)
        base.value_info.remove(said)
    return base, branches
