"""An exported graph in torch: its values are onnxruntime's, and what it does not know is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from visionlora.errors import QuantizationError
from visionlora.fake_quant import GraphNetwork


def network(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A graph from `images` (1, 4, 8, 8) to `out`."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 4, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", [images], [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the {kind}", **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


WEIGHT = np.random.default_rng(0).normal(0, 1, (6, 2, 3, 3)).astype(np.float32)
BIAS = np.random.default_rng(1).normal(0, 1, 6).astype(np.float32)
CASES = {
    "convolution": (
        [node("Conv", "images w b", "out", group=2, pads=[0, 1, 1, 0], strides=[2, 2])],
        {"w": WEIGHT, "b": BIAS},
    ),
    "no bias": ([node("Conv", "images w", "out", group=2, dilations=[2, 2])], {"w": WEIGHT}),
    "pool": ([node("MaxPool", "images", "out", kernel_shape=[5, 5], pads=[2, 2, 2, 2])], {}),
    "resize": (
        [
            helper.make_node(
                "Resize",
                ["images", "", "s"],
                ["out"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ],
        {"s": np.array([1, 1, 2, 2], dtype=np.float32)},
    ),
    "slice and concat": (
        [
            node("Slice", "images from to axis step", "a"),
            node("Concat", "a images", "out", axis=1),
        ],
        {"from": ints(1), "to": ints(2**40), "axis": ints(1), "step": ints(2)},
    ),
    "split": (
        [node("Split", "images sizes", "a b", axis=1), node("Concat", "b a", "out", axis=1)],
        {"sizes": ints(1, 3)},
    ),
    "attention": (
        [
            node("Reshape", "images shape", "a"),
            node("Transpose", "a", "b", perm=[0, 2, 1]),
            node("MatMul", "b a", "c"),
            node("Mul", "c factor", "d"),
            node("Softmax", "d", "out", axis=-1),
        ],
        {"shape": ints(1, 4, -1), "factor": np.array(0.1, dtype=np.float32)},
    ),
    "arithmetic": (
        [
            node("Sigmoid", "images", "a"),
            node("Add", "a images", "b"),
            node("Sub", "b a", "c"),
            node("Div", "c two", "d"),
            node("Relu", "d", "out"),
        ],
        {"two": np.array([2], dtype=np.float32)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operations_give_what_onnxruntime_gives(case) -> None:
    model = network(*case)
    x = np.random.default_rng(2).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": x})
    (got,) = GraphNetwork(model.graph, ["out"])(torch.from_numpy(np.concatenate([x, x + 1])))
    assert got.shape == (2, *expected.shape[1:])
    np.testing.assert_allclose(got[:1].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([node("Erf", "images", "out")], {}, "the Erf: Erf is not an operation"),
        ([node("Conv", "images w", "out", auto_pad="SAME_UPPER")], {"w": WEIGHT}, "the Conv: auto_pad SAME_UPPER"),
        ([node("Relu", "images", "w"), node("Conv", "images w", "out")], {}, "constant weights.*: w"),
        ([node("MaxPool", "images", "out", kernel_shape=[2, 2], ceil_mode=1)], {}, "the MaxPool: MaxPool with"),
        ([node("Relu", "images", "s"), node("Reshape", "images s", "out")], {}, "the Reshape: expected input 1"),
    ],
    ids=["operation", "padding", "weights", "pool", "shape"],
)
def test_what_cannot_be_trained_through_is_refused_by_name(nodes, constants, message) -> None:
    with pytest.raises(QuantizationError, match=message):
        GraphNetwork(network(nodes, constants).graph, ["out"])


def test_only_what_leads_to_the_outputs_is_computed() -> None:
    model = network([node("Relu", "images", "a"), node("Erf", "a", "out")])
    (got,) = GraphNetwork(model.graph, ["a"])(torch.full((1, 4, 8, 8), -1.0))
    assert got.count_nonzero() == 0


@pytest.mark.parametrize("outputs", [("out",), ("out", "a.gate")], ids=["hidden gate", "wanted gate"])
def test_silu_in_float_is_one_step_where_its_gate_is_not_wanted(outputs) -> None:
    nodes = [
        node("Sigmoid", "images", "a.gate"),
        node("Mul", "a.gate images", "a"),
        node("Sigmoid", "a", "b.gate"),
        node("Mul", "a b.gate", "b"),
        node("Sigmoid", "b", "c"),
        node("Concat", "a b c", "out", axis=1),
    ]
    for number, one in enumerate(nodes):
        one.name = f"node {number}"
    model = network(nodes)
    images = np.random.default_rng(0).normal(0, 3, (1, 4, 8, 8)).astype(np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0]

    made = GraphNetwork(model.graph, outputs)

    np.testing.assert_allclose(made(torch.from_numpy(images))[0].numpy(), expected, atol=1e-6)
    silus = sum(step.run is torch.nn.functional.silu for step in made._steps)
    assert (silus, len(made._steps)) == ((2, 4) if len(outputs) == 1 else (1, 5))
