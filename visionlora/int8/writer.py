"""Writing a graph node by node, with short names and each constant once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
        self._count = 0
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
        kept = [each for each in node.attribute if not _is_default(node, each)]
        del written.input[:], written.output[:], written.attribute[:]
        written.attribute.extend(kept)
        written.input.extend(inputs)
        written.output.extend(outputs)
        self.nodes.append(written)

    def constant(self, array: NDArray[np.generic], name: str = "") -> str:
        """Return the name of an initializer with this content, `name` if it is new and that is free."""
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._constant(key, name, lambda name: numpy_helper.from_array(array, name))

    def constant_4bit(self, array: NDArray[np.int8 | np.uint8], name: str = "") -> str:
        """Return the name of an initializer of int4, or uint4 where `array` is unsigned; its numbers must fit."""
        kind = onnx.TensorProto.INT4 if array.dtype == np.int8 else onnx.TensorProto.UINT4
        nibbles = array.reshape(-1).view(np.uint8) & 15
        pairs = np.append(nibbles, np.zeros(len(nibbles) % 2, dtype=np.uint8)).reshape(-1, 2)
        packed = (pairs[:, 0] | pairs[:, 1] << 4).tobytes()  # the first of two is the lower half of a byte
        key = (f"4 bits of {array.dtype.str}", array.shape, packed)
        return self._constant(key, name, lambda name: helper.make_tensor(name, kind, array.shape, packed, raw=True))

    def _constant(
        self, key: tuple[str, tuple[int, ...], bytes], name: str, made: Callable[[str], onnx.TensorProto]
    ) -> str:
        if key not in self._by_content:
            name = name if name and name not in self.initializers else self.fresh("c")
            self._by_content[key] = name
            self.initializers[name] = made(name)
        return self._by_content[key]

    def fresh(self, prefix: str) -> str:
        """Return a name that nothing has yet."""
        while (name := prefix + np.base_repr(self._count, 36).lower()) in self._taken:
            self._count += 1
        self._taken.add(name)
        self._count += 1
        return name


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Whether a convolution's attribute says what would hold without it."""
    value = helper.get_attribute_value(attribute)
    if node.op_type != "Conv":
        return False
    usual = {"dilations": 1, "strides": 1, "pads": 0}
    return (attribute.name == "group" and value == 1) or (
        attribute.name in usual and all(each == usual[attribute.name] for each in value)
    )
