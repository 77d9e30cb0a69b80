"""Writing a graph node by node, with short names and each constant once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class GraphWriter:
    """The nodes and constants of a graph written so far.

    Attributes:
        nodes: in topological order.
        initializers: the constants by name.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        """Start an empty graph.

        Args:
            taken: names that are used for something else.
        """
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._taken = set(taken)
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Write a node of one output; return the name of that, a new one where none is given."""
        output = output or self.fresh("t")
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def copy(self, node: onnx.NodeProto, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a node with other names."""
        written = onnx.NodeProto()
        written.CopyFrom(node)
        written.doc_string = ""
        written.name = name
        del written.input[:], written.output[:]
        written.input.extend(inputs)
        written.output.extend(outputs)
        self.nodes.append(written)

    def constant(self, array: NDArray[np.generic], name: str = "") -> str:
        """Return the name of an initializer with this content, `name` if it is new and that is free."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_content:
            name = name if name and name not in self.initializers else self.fresh("c")
            self._by_content[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._by_content[key]

    def fresh(self, prefix: str) -> str:
        """Return a name that nothing has yet."""
        index = len(self._taken)
        while f"{prefix}{index}" in self._taken:
            index += 1
        self._taken.add(f"{prefix}{index}")
        return f"{prefix}{index}"
