"""What becomes int8 follows from the structure of the graph alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.quantization.graphs import build, detector, node, silu
from visionlora.int8.plan import Use, beside_boxes_and_scores, plan_quantization

CONV = {"w": np.ones((4, 4, 1, 1), dtype=np.float32), "w3": np.ones((4, 3, 1, 1), dtype=np.float32)}
FIRST = node("Conv", "images w3", "a")


def groups_of(nodes, constants=None) -> dict[tuple[str, ...], Use]:
    plan = plan_quantization(build(nodes, {**CONV, **(constants or {})}).graph)
    return {group.tensors: group.use for group in plan.groups}


def test_a_detector_is_int8_up_to_its_last_convolutions():
    plan = plan_quantization(detector().graph)

    assert plan.convs == ("stem", "mix", "box", "score")
    assert {group.tensors: group.use for group in plan.groups} == {
        ("images",): Use.UNIT,
        ("stem",): Use.SILU,
        ("stem.out.sigmoid",): Use.UNIT,
        ("stem.out", "left", "right", "pooled", "joined"): Use.VALUES,
        ("mix",): Use.SILU,
        ("mix.out.sigmoid",): Use.UNIT,
        ("mix.out",): Use.VALUES,
        ("box",): Use.BOX,
        ("score",): Use.SCORE,
    }
    assert {group.sources for group in plan.groups if len(group.tensors) > 1} == {("stem.out",)}


def test_the_mean_over_box_bins_is_no_layer():
    bins = {"bins": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)}
    nodes = [
        FIRST,
        node("Transpose", "a", "t", perm=[0, 1, 3, 2]),
        node("Softmax", "t", "p", axis=1),
        node("Conv", "p bins", "output0"),
    ]

    plan = plan_quantization(build(nodes, {**CONV, **bins}).graph)

    assert (plan.convs, plan.float_layers) == (("a",), ("output0",))
    assert {group.tensors: group.use for group in plan.groups} == {("images",): Use.UNIT, ("a",): Use.BOX}


def test_attention_stays_float_between_int8_convolutions():
    nodes = [
        FIRST,
        node("Split", "a", "q v", axis=1),
        node("MatMul", "q v", "m"),
        node("Softmax", "m", "s"),
        node("Concat", "s v", "c", axis=1),
        node("Conv", "c w", "output0"),
    ]

    plan = plan_quantization(build(nodes, CONV).graph)

    assert plan.float_layers == ("m",)
    assert {group.tensors for group in plan.groups} == {("images",), ("a", "q", "v"), ("c",), ("output0",)}


@pytest.mark.parametrize(
    ("nodes", "use"),
    [
        (silu("a", "b"), Use.SILU),
        ([node("Sigmoid", "a", "s"), node("Mul", "s a", "b")], Use.SILU),
        ([*silu("a", "c"), node("Add", "a c", "b")], Use.VALUES),
        ([node("Sigmoid", "a", "s"), node("Mul", "s s", "c"), node("Add", "a c", "b")], Use.VALUES),
    ],
    ids=["silu", "silu turned round", "silu and more", "no silu"],
)
def test_only_silu_alone_is_taken_for_silu(nodes, use):
    assert groups_of([FIRST, *nodes, node("Conv", "b w", "output0")])[("a",)] is use


@pytest.mark.parametrize(
    ("nodes", "use"),
    [
        ([node("Sigmoid", "a", "output0")], Use.SCORE),
        ([node("Transpose", "a", "t"), node("Concat", "t t", "c", axis=0), node("Sigmoid", "c", "output0")], Use.SCORE),
        ([node("Mul", "a half", "m"), node("Sigmoid", "m", "output0")], Use.BOX),
        ([node("Sigmoid", "a", "s"), node("Add", "s a", "output0")], Use.BOX),
    ],
    ids=["sigmoid", "moved", "scaled", "also read otherwise"],
)
def test_only_what_a_sigmoid_alone_reads_is_a_score(nodes, use):
    assert groups_of([FIRST, *nodes], {"half": np.float32(0.5)})[("a",)] is use


def test_indices_of_a_pool_are_no_activation():
    pool = node("MaxPool", "a", "b indices", kernel_shape=[2, 2])

    assert ("a", "b") in groups_of([FIRST, pool, node("Conv", "b w", "output0")])


def test_a_convolution_is_rounded_behind_its_relu_alone():
    groups = groups_of([FIRST, node("Relu", "a", "b"), node("Conv", "b w", "output0")])
    assert ("a",) not in groups and groups[("b",)] is Use.VALUES


def test_a_relu_that_shares_its_input_is_rounded_on_both_sides():
    nodes = [FIRST, node("Relu", "a", "b"), node("Add", "a b", "c"), node("Conv", "c w", "output0")]
    groups = groups_of(nodes)
    assert ("a",) in groups and ("b",) in groups


def test_the_ends_of_a_branch_are_counted_from_its_end_and_none_is_shared() -> None:
    nodes, weight = [], numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weight")
    wires = {"trunk": "images", "first": "trunk", "second": "first", "points": "second", "logits": "trunk"}
    for name, source in wires.items():
        nodes.append(helper.make_node("Conv", [source, "weight"], [name], name=name))
    nodes += [helper.make_node("Sigmoid", ["logits"], ["scores"])]
    nodes += [helper.make_node("Concat", ["points", "scores"], ["output0"], axis=1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 4, 4]) for name in ("images", "output0")]
    graph = helper.make_graph(nodes, "branches", values[:1], values[1:], [weight])

    ends = [beside_boxes_and_scores(graph, depth) for depth in (1, 2, 3, 4)]

    assert ends == [("points",), ("second", "points"), *[("first", "second", "points")] * 2]
