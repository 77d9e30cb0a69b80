"""Which tensors of a float graph become int8, and which of them share one range: structure only, no numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import onnx

from visionlora.errors import QuantizationError
from visionlora.int8.int4 import int4_groups

PASS_THROUGH = frozenset({"Concat", "Identity", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Transpose"})
"""Operations that move values without changing them, so that inputs and outputs can share one scale."""
_PLACES = PASS_THROUGH | {"Gather", "Pad"}
"""Operations that bring scores to their place in the output, also in a file of several heads."""
_INT8_OPERATIONS = PASS_THROUGH | {"Add", "Mul", "Relu", "Sigmoid"}
_ALL_INPUTS_ARE_DATA = frozenset({"Add", "Concat", "Mul"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Use(Enum):
    """What happens to an activation, and so what its range is chosen for."""

    VALUES = "the values count"
    SILU = "only x * sigmoid(x) counts"
    SCORE = "only sigmoid(x), the score, counts"
    BOX = "every value counts: the boxes are decoded from it"
    UNIT = "it is in [0, 1] by definition"


@dataclass(frozen=True)
class RangeGroup:
    """Tensors that share one scale and zero point.

    Attributes:
        tensors: all of them, in the order of the graph.
        sources: those whose values are new; the others only move these.
        use: what the range is chosen for.
    """

    tensors: tuple[str, ...]
    sources: tuple[str, ...]
    use: Use


@dataclass(frozen=True)
class QuantizationPlan:
    """What is to become int8 in one graph. Layers are named by their node, or by its output where it has no name.

    Attributes:
        convs: the convolutions that are to run in int8.
        groups: the int8 activations; each is in one group.
        float_layers: the layers (convolutions, matrix products) that stay float.
        int4: how many weights share a multiplier in each convolution that has int4 weights, none where all are int8.
    """

    convs: tuple[str, ...]
    groups: tuple[RangeGroup, ...]
    float_layers: tuple[str, ...]
    int4: Mapping[str, int] = field(default_factory=dict)


def layer_name(node: onnx.NodeProto) -> str:
    """Return the name that a plan uses for a node."""
    return node.name or node.output[0]


def plan_quantization(
    graph: onnx.GraphProto,
    *,
    float_layers: Iterable[str] = (),
    fuses: bool = False,
    int4: bool = False,
    int8_layers: Iterable[str] = (),
) -> QuantizationPlan:
    """Decide what becomes int8 in a detector.

    All convolutions do, except one that only decodes (the mean over box bins behind a softmax). What lies behind the
    last convolutions stays float: boxes in pixels need more than 256 levels. Between convolutions the operations of
    `PASS_THROUGH`, and sums, sigmoids and products of int8 activations, follow; everything else, such as the matrix
    products and the softmax of attention, stays float.

    Args:
        graph: constants are initializers, nodes are in topological order.
        float_layers: convolutions that are to stay float. The tensors of such a plan are some of those of a plan
            without, so ranges chosen for that one serve this one too.
        fuses: only what convolutions read becomes int8, see `Scheme.fuses`.
        int4: the weights of large layers become int4. Which they are does not depend on `float_layers`.
        int8_layers: large layers whose weights become int8 nevertheless.

    Raises:
        QuantizationError: a float or an int8 layer is no convolution that would be in int8.
    """
    wiring = _Wiring(graph)
    left, kept = set(float_layers), set(int8_layers)
    candidates = [node for node in graph.node if node.op_type == "Conv" and not wiring.is_decoder(node)]
    for kind, chosen in (("float", left), ("int8", kept)):
        unknown = chosen - {layer_name(node) for node in candidates}
        if unknown:
            raise QuantizationError(
                f"{kind} layers: expected names of convolutions of this graph, got {sorted(unknown)}"
            )
    convs = [node for node in candidates if layer_name(node) not in left]
    names = tuple(layer_name(node) for node in convs)
    needed = wiring.tensors_before(convs)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer} if int4 else {}
    weights = {layer_name(node): shapes[node.input[1]] for node in candidates if node.input[1] in shapes}
    int8 = dict.fromkeys(node.input[0] for node in convs) if fuses else _int8_tensors(graph, wiring, convs, needed)
    return QuantizationPlan(
        convs=names,
        groups=tuple(_range_groups(graph, wiring, int8, needed)),
        float_layers=tuple(
            layer_name(node) for node in graph.node if node.op_type in _LAYERS and layer_name(node) not in set(names)
        ),
        int4={name: group for name, group in int4_groups(weights).items() if name not in left | kept},
    )


def beside_boxes_and_scores(graph: onnx.GraphProto, depth: int = 1) -> tuple[str, ...]:
    """Return the last convolutions whose outputs are neither scores nor bins of which a mean is taken.

    They give mask factors, prototypes, keypoints or angles, or the sides of boxes where a head has no bins. They are a
    hundredth of a network, so next to no time is lost where they stay float.

    Args:
        graph: as for `plan_quantization`.
        depth: how many convolutions of each such branch, from its end; one that another branch reads is in none.
    """
    wiring = _Wiring(graph)
    convs = [node for node in graph.node if node.op_type == "Conv" and not wiring.is_decoder(node)]
    needed = wiring.tensors_before(convs)
    last = [node for node in convs if needed.isdisjoint(node.output)]
    kept = [node for node in last if not wiring.is_score_or_bins(node.output[0])]
    for _ in range(depth - 1):
        outputs = {node.output[0] for node in kept}
        kept = [node for node in convs if node.output[0] in outputs or wiring.convs_behind(node) <= outputs]
    return tuple(layer_name(node) for node in kept)


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs that are activations by the operation's definition, not shapes, weights or indices."""
    return list(node.input) if node.op_type in _ALL_INPUTS_ARE_DATA else list(node.input[:1])


def data_outputs(node: onnx.NodeProto) -> list[str]:
    """Return the outputs that are activations, not indices."""
    return list(node.output) if node.op_type == "Split" else list(node.output[:1])


class _Wiring:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.images = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            self.producer.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)

    def is_decoder(self, conv: onnx.NodeProto) -> bool:
        """Whether a convolution takes the mean over a softmax (arXiv 2006.04388, eq. 5): arithmetic, not a layer."""
        node = self.producer.get(conv.input[0])
        while node is not None and node.op_type in PASS_THROUGH and len(data_inputs(node)) == 1:
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type == "Softmax"

    def tensors_before(self, nodes: Iterable[onnx.NodeProto]) -> set[str]:
        """Tensors that any of `nodes` depends on."""
        reached: set[str] = set()
        waiting = [name for node in nodes for name in node.input]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += self.producer[name].input if name in self.producer else ()
        return reached

    def convs_behind(self, node: onnx.NodeProto) -> set[str]:
        """Outputs of the convolutions that read what a node gives, perhaps after other operations; "" for none."""
        found, waiting = set(), list(node.output)
        while waiting:
            readers = self.consumers[waiting.pop()]
            found |= {reader.output[0] for reader in readers if reader.op_type == "Conv"} if readers else {""}
            waiting += [name for reader in readers if reader.op_type != "Conv" for name in reader.output]
        return found

    def is_before_silu(self, name: str) -> bool:
        """Whether x * sigmoid(x) is all that happens to a tensor x."""
        users = {node.op_type: node for node in self.consumers[name]}
        if name in self.outputs or len(self.consumers[name]) != 2 or set(users) != {"Mul", "Sigmoid"}:
            return False
        return sorted(users["Mul"].input) == sorted([name, users["Sigmoid"].output[0]])

    def behind_relu(self, name: str) -> str:
        """Return the output of the Relu that is all that happens to a tensor; the tensor itself where there is none.

        A range that begins at zero clips as Relu does, so a convolution computes it for nothing if its own output
        is never rounded.
        """
        users = self.consumers[name]
        if name in self.outputs or len(users) != 1 or users[0].op_type != "Relu":
            return name
        return users[0].output[0]

    def is_before_score(self, name: str) -> bool:
        """Whether sigmoid(x) is all that happens to a tensor x, perhaps after it was moved."""
        if name in self.outputs or not self.consumers[name]:
            return False
        return all(
            node.op_type == "Sigmoid"
            or (node.op_type in PASS_THROUGH and all(self.is_before_score(output) for output in node.output))
            for node in self.consumers[name]
        )

    def is_score_or_bins(self, name: str) -> bool:
        """Whether all that happens to a tensor, perhaps after it was moved, is a softmax, or a sigmoid and no more."""
        return bool(self.consumers[name]) and all(
            node.op_type == "Softmax"
            or (node.op_type == "Sigmoid" and self._is_given_out(node.output[0]))
            or (node.op_type in PASS_THROUGH and all(self.is_score_or_bins(output) for output in node.output))
            for node in self.consumers[name]
        )

    def _is_given_out(self, name: str) -> bool:
        """Whether a tensor is only moved into the outputs."""
        return name in self.outputs or all(
            node.op_type in _PLACES and all(self._is_given_out(output) for output in node.output)
            for node in self.consumers[name]
        )


def _int8_tensors(
    graph: onnx.GraphProto, wiring: _Wiring, convs: list[onnx.NodeProto], needed: set[str]
) -> dict[str, None]:
    """Activations that get a scale, in the order of the graph: all around convolutions, and what follows from them."""
    entering = {node.input[0] for node in convs}
    leaving = {wiring.behind_relu(node.output[0]) for node in convs}
    int8 = dict.fromkeys(value.name for value in graph.input if value.name in entering)
    for node in graph.node:
        follows = (
            node.op_type in _INT8_OPERATIONS
            and not needed.isdisjoint(data_outputs(node))
            and all(name in int8 for name in data_inputs(node))
        )
        outputs = data_outputs(node)
        int8.update(dict.fromkeys(name for name in outputs if follows or name in entering or name in leaving))
    return int8


def _range_groups(
    graph: onnx.GraphProto, wiring: _Wiring, int8: Mapping[str, None], needed: set[str]
) -> Iterable[RangeGroup]:
    """Tie the tensors around each operation that only moves values."""
    parent = {name: name for name in int8}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    moved = set()
    for node in graph.node:
        inputs, outputs = data_inputs(node), data_outputs(node)
        if node.op_type in PASS_THROUGH and all(name in int8 for name in [*inputs, *outputs]):
            moved.update(outputs)
            for name in [*inputs[1:], *outputs]:
                parent[root(name)] = root(inputs[0])
    members: dict[str, list[str]] = defaultdict(list)
    for name in int8:
        members[root(name)].append(name)
    for tensors in members.values():
        sources = tuple(name for name in tensors if name not in moved)
        yield RangeGroup(tuple(tensors), sources, _use(tensors, sources, wiring, needed))


def _use(tensors: list[str], sources: tuple[str, ...], wiring: _Wiring, needed: set[str]) -> Use:
    if all(name in wiring.images or wiring.producer[name].op_type == "Sigmoid" for name in sources):
        return Use.UNIT
    if needed.isdisjoint(tensors):  # the output of a last convolution
        return Use.SCORE if wiring.is_before_score(tensors[0]) else Use.BOX
    if len(tensors) == 1 and wiring.is_before_silu(tensors[0]):
        return Use.SILU
    return Use.VALUES
