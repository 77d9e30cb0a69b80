"""A part of an ONNX graph as a torch module: as the float graph computes it, or as its int8 file will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from visionlora.errors import QuantizationError
from visionlora.fake_quant.fake import fake_quantize, quantized_silu
from visionlora.fake_quant.layers import LayerConstants, Layout, layout_of
from visionlora.fake_quant.operators import Operation, convolution, operation_of
from visionlora.fake_quant.ranges import FakeQuantSpec, LearnedRanges

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_ELEMENTWISE = ("Add", "Div", "MatMul", "Mul", "Sub")  # whose constants are data
_UNIT_SCALE = float(np.float32(1 / 255))
Constants = tuple[Sequence[torch.Tensor], Sequence["torch.Tensor | None"]]
"""Weights and biases of the convolutions, in the order of `GraphNetwork.weights`."""


@dataclass(frozen=True)
class _Step:
    """One operation: what it reads, what it gives, what is no longer needed after it.

    Attributes:
        conv: index of a convolution's weights; None for anything else.
        silu: range before, if the step is all of an int8 `x * sigmoid(x)`, whose result has the range `outputs` says.
    """

    run: Operation
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]
    conv: int | None = None
    silu: int | None = None


class GraphNetwork(nn.Module):
    """The part of a graph that leads from its input to some of its tensors.

    Args:
        graph: of a float model; constants are initializers, the input is the image batch.
        outputs: names of the tensors wanted.
        spec: what is int8; None computes in float.
        learned: whether the ranges are parameters.

    Attributes:
        weights: names of the convolutions' weights, in the order of the graph.
        ranges: those of the int8 activations, or None.

    Raises:
        QuantizationError: an operation is not known, or a convolution's weights are not constant; by name.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        outputs: Sequence[str],
        spec: FakeQuantSpec | None = None,
        *,
        learned: bool = True,
    ) -> None:
        super().__init__()
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.spec = spec
        self.ranges = None if spec is None else LearnedRanges(spec.ranges, learned=learned)
        self._image = graph.input[0].name
        self._outputs = tuple(outputs)
        self._range_of: dict[str, int] = {}
        self._source: dict[str, int] = {}
        for index, one in enumerate(spec.ranges if spec else ()):
            self._range_of.update(dict.fromkeys(one.tensors, index))
            self._source.update(dict.fromkeys(one.sources, index))
        nodes = _needed(graph, self._outputs)
        convs = [node for node in nodes if node.op_type in _CONVOLUTIONS]
        self.weights = tuple(node.input[1] for node in convs)
        unknown = [name for name in self.weights if name not in arrays]
        if unknown:
            raise QuantizationError(f"expected constant weights, got computed ones: {', '.join(unknown[:5])}")
        int8 = set(spec.convs) if spec else set()
        int4 = spec.int4 if spec else {}
        self._inputs = tuple(node.input[0] for node in convs)
        self._int8 = tuple(
            index
            for index, node in enumerate(convs)
            if (node.name or node.output[0]) in int8 and node.input[0] in self._range_of
        )
        self._int4 = tuple(int4.get(convs[index].name or convs[index].output[0]) for index in self._int8)
        self._constant_names: dict[str, str] = {}
        for index, node in enumerate(convs):
            self.register_buffer(f"weight{index}", _tensor(arrays[node.input[1]]))
            has_bias = len(node.input) > 2 and node.input[2]
            self.register_buffer(f"bias{index}", _tensor(arrays[node.input[2]]) if has_bias else None)
        others = dict.fromkeys(name for node in nodes if node.op_type in _ELEMENTWISE for name in node.input)
        for number, name in enumerate(name for name in others if name in arrays):
            self._constant_names[name] = f"constant{number}"
            self.register_buffer(f"constant{number}", _tensor(arrays[name]))
        self._raw: set[str] = set()
        self._steps = self._plan(nodes, arrays)
        self._layer_constants: dict[Layout, LayerConstants] = {}

    def constants(self) -> Constants:
        """Return weights and biases as they stand in the graph."""
        count = len(self.weights)
        return [getattr(self, f"weight{i}") for i in range(count)], [getattr(self, f"bias{i}") for i in range(count)]

    def forward(self, images: torch.Tensor, constants: Constants | None = None) -> list[torch.Tensor]:
        """Return the wanted tensors for `images` (n, 3, H, W) in [0, 1].

        Args:
            images: of the size that the graph was exported for; any number of them.
            constants: weights and biases to use instead of the graph's own, in the order of `weights`.
        """
        weights, biases = self.constants() if constants is None else constants
        ranges = () if self.ranges is None else self.ranges()
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        with torch.autocast(device, enabled=False):
            weights, biases = self._rounded(weights, biases, ranges, dtype)
        values = {self._image: self._on_levels(images, self._image, ranges)}
        for step in self._steps:
            inputs = [values[name] if name in values else self._constant(name) for name in step.inputs]
            if step.conv is not None:
                results: Sequence[torch.Tensor] = [
                    cast(torch.Tensor, step.run(inputs[0], weights[step.conv], biases[step.conv]))
                ]
            elif step.silu is not None:
                after = ranges[self._range_of[step.outputs[0]]]
                values[step.outputs[0]] = quantized_silu(inputs[0], ranges[step.silu], after)
                results = []
            else:
                result = step.run(*inputs)
                results = [result] if isinstance(result, torch.Tensor) else result
            for name, value in zip(step.outputs, results, strict=False):
                values[name] = self._on_levels(value, name, ranges)
            for name in step.done:
                del values[name]
        return [values[name] for name in self._outputs]

    def _constant(self, name: str) -> torch.Tensor:
        return cast(torch.Tensor, getattr(self, self._constant_names[name]))

    def _on_levels(self, value: torch.Tensor, name: str, ranges: Sequence[Any]) -> torch.Tensor:
        index = None if name in self._raw else self._source.get(name)
        return value if index is None else fake_quantize(value, *ranges[index])

    def _rounded(
        self, weights: Sequence[Any], biases: Sequence[Any], ranges: Sequence[Any], dtype: torch.dtype
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return all constants, those of int8 convolutions on their levels."""
        if not self._int8:
            return weights, biases
        weights, biases = list(weights), list(biases)
        chosen = [weights[index].float() for index in self._int8]
        layout = layout_of(chosen)
        if layout not in self._layer_constants:  # the earlier ones stay: a CUDA graph may read them
            self._layer_constants[layout] = LayerConstants(chosen, self._int4)
        some = [
            weight.new_zeros(len(weight)) if biases[index] is None else biases[index].float()
            for index, weight in zip(self._int8, chosen, strict=True)
        ]
        scales = [ranges[self._range_of[self._inputs[index]]][0] for index in self._int8]
        on_levels = self._layer_constants[layout].rounded(chosen, some, scales, dtype)
        for index, weight, bias in zip(self._int8, *on_levels, strict=True):
            weights[index] = weight
            biases[index] = None if biases[index] is None else bias
        return weights, biases

    def _plan(self, nodes: Sequence[onnx.NodeProto], arrays: Mapping[str, np.ndarray]) -> tuple[_Step, ...]:
        """Turn nodes into steps; `x * sigmoid(x)` becomes one, in int8 or with x and its gate in float."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        gates = {node.output[0]: gate for node in nodes if (gate := self._gate_of(node, readers)) is not None}
        silus = {product: gate.input[0] for product, gate in gates.items()}
        inside = {gate.output[0] for gate in gates.values()}
        merged = {x for x in silus.values() if x in self._source}
        steps: list[_Step] = []
        conv = 0
        for node in nodes:
            data = tuple(name for name in node.input if name and (name not in arrays or name in self._constant_names))
            if node.op_type in _CONVOLUTIONS:
                steps.append(_Step(convolution(node), (node.input[0],), tuple(node.output), (), conv=conv))
                conv += 1
            elif node.output[0] in silus:
                x = silus[node.output[0]]
                run = quantized_silu if x in merged else torch.nn.functional.silu
                steps.append(_Step(run, (x,), tuple(node.output), (), silu=self._range_of[x] if x in merged else None))
            elif node.output[0] not in inside:
                steps.append(_Step(operation_of(node, arrays), data, tuple(node.output), ()))
        self._raw = merged  # rounded inside the step that reads them
        last = {name: number for number, step in enumerate(steps) for name in (*step.inputs, *step.outputs)}
        last = {name: number for name, number in last.items() if name not in arrays and name not in self._outputs}
        return tuple(
            replace(step, done=tuple(name for name, at in last.items() if at == number))
            for number, step in enumerate(steps)
        )

    def _gate_of(self, node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> onnx.NodeProto | None:
        """Return the Sigmoid of `x * sigmoid(x)` if `node` is that product and can be one step with it.

        In int8 nothing else may read x, because that step rounds it; in float only the sigmoid must not be read.
        """
        if node.op_type != "Mul":
            return None
        for x, gate in (tuple(node.input), tuple(node.input)[::-1]):
            both = readers.get(x, [])
            sigmoid = next((reader for reader in both if reader.op_type == "Sigmoid"), None)
            if sigmoid is None or sigmoid.output[0] != gate or len(readers[gate]) != 1 or gate in self._outputs:
                continue
            levels = [name in self._source for name in (x, gate, node.output[0])]
            spec = self.spec.ranges[self._source[gate]] if self.spec and levels[1] else None
            unit = spec is not None and not spec.learned and spec.zero_point == 0 and spec.scale == _UNIT_SCALE
            if not any(levels[:2]) or (all(levels) and unit and len(both) == 2 and x not in self._outputs):
                return sigmoid
        return None


def _needed(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that lead to `outputs`, in the order of the graph."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
