"""The int8 file computes what it says, and onnxruntime's integer kernels agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import build, node, random_conv, rounded, rounded_conv, run, sigmoid, silu, tensors_of
from visionlora.int8 import QuantizationRecipe, apply_recipe
from visionlora.int8.plan import plan_quantization
from visionlora.int8.ranges import UNIT_RANGE, ActivationRange
from visionlora.int8.scheme import X86
from visionlora.quantization import sums_saturate

RNG = np.random.default_rng(5)
W1, B1 = random_conv(RNG, 6, 3, 3)
W2, B2 = random_conv(RNG, 6, 6, 1)
W3, B3 = random_conv(RNG, 4, 6, 3)
WIDE, WIDE_B = random_conv(RNG, 4, 12, 1)
GROUPED, GROUPED_B = random_conv(RNG, 6, 2, 3)
CONSTANTS = {
    "w1": W1, "b1": B1, "w2": W2, "b2": B2, "w3": W3, "b3": B3, "wide": WIDE, "wide.b": WIDE_B,
    "grouped": GROUPED, "grouped.b": GROUPED_B, "double": np.float32([1, 1, 2, 2]), "flat": np.array([1, 6, 256]),
    "square": np.array([1, 6, 16, 16]),
}  # fmt: skip
A, B, C, OUT = (
    ActivationRange(-1.9, 2.3),
    ActivationRange(-0.3, 2.1),
    ActivationRange(-1.5, 1.5),
    ActivationRange(-3, 2),
)
FIRST = node("Conv", "images w1 b1", "a", pads=[1, 1, 1, 1])
LAST = node("Conv", "moved w3 b3", "output0")

Ranges = dict[str, ActivationRange]
Expected = Callable[[np.ndarray], np.ndarray]


def first(x: np.ndarray) -> np.ndarray:
    return rounded(rounded_conv(rounded(x, UNIT_RANGE), W1, B1, UNIT_RANGE, pad=1), A)


def last(x: np.ndarray, chosen: ActivationRange) -> np.ndarray:
    return rounded(rounded_conv(x, W3, B3, chosen), OUT)


def silu_of_first(x: np.ndarray) -> np.ndarray:
    a = first(x)
    return rounded(a * rounded(sigmoid(a), UNIT_RANGE), B)


def pooled(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3))[:, :, ::2, ::2]
    return windows.max(axis=(4, 5))


def joined(x: np.ndarray) -> np.ndarray:
    a = first(x)
    b = rounded(rounded_conv(a, W2, B2, A), A)  # one range for all that is joined
    return rounded(rounded_conv(np.concatenate([a, b], axis=1), WIDE, WIDE_B, A), OUT)


def summed(x: np.ndarray) -> np.ndarray:
    a = first(x)
    return last(rounded(a + rounded(rounded_conv(a, W2, B2, A), B), C), C)


CASES: list[tuple[str, list[onnx.NodeProto], Ranges, Expected]] = [
    (
        "conv and silu",
        [FIRST, *silu("a", "moved"), LAST],
        {"a": A, "moved.sigmoid": UNIT_RANGE, "moved": B},
        lambda x: last(silu_of_first(x), B),
    ),
    (
        "max pool",
        [FIRST, node("MaxPool", "a", "moved", kernel_shape=[2, 2], strides=[2, 2]), LAST],
        {"a": A, "moved": A},
        lambda x: last(pooled(first(x)), A),
    ),
    (
        "resize",
        [FIRST, node("Resize", "a  double", "moved", mode="nearest", nearest_mode="floor",
                     coordinate_transformation_mode="asymmetric"), LAST],
        {"a": A, "moved": A},
        lambda x: last(first(x).repeat(2, axis=2).repeat(2, axis=3), A),
    ),
    (
        "reshape and transpose",
        [FIRST, node("Reshape", "a flat", "f"), node("Reshape", "f square", "s"),
         node("Transpose", "s", "moved", perm=[0, 1, 3, 2]), LAST],
        {"a": A, "f": A, "s": A, "moved": A},
        lambda x: last(first(x).swapaxes(2, 3), A),
    ),
    (
        "concat",
        [FIRST, node("Conv", "a w2 b2", "b"), node("Concat", "a b", "c", axis=1),
         node("Conv", "c wide wide.b", "output0")],
        {"a": A, "b": A, "c": A},
        joined,
    ),
    (
        "sum",
        [FIRST, node("Conv", "a w2 b2", "b"), node("Add", "a b", "moved"), LAST],
        {"a": A, "b": B, "moved": C},
        summed,
    ),
    (
        "grouped and strided conv",
        [FIRST, node("Conv", "a grouped grouped.b", "moved", group=3, strides=[2, 2], pads=[1, 1, 1, 1]), LAST],
        {"a": A, "moved": B},
        lambda x: last(rounded(rounded_conv(first(x), GROUPED, GROUPED_B, A, stride=2, pad=1, groups=3), B), B),
    ),
]  # fmt: skip
IMAGES = np.random.default_rng(1).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)


def quantized(nodes: list[onnx.NodeProto], ranges: Ranges) -> onnx.ModelProto:
    used = {name for one in nodes for name in one.input}
    model = build(nodes, {name: value for name, value in CONSTANTS.items() if name in used})
    plan = plan_quantization(model.graph)
    ranges = {"images": UNIT_RANGE, "output0": OUT, **ranges}
    assert {name for group in plan.groups for name in group.tensors} == set(ranges)
    written = apply_recipe(model, QuantizationRecipe(X86, ranges))
    onnx.checker.check_model(written, full_check=True)
    return written


@pytest.mark.parametrize(("nodes", "ranges", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_file_computes_what_its_ranges_say(nodes, ranges, expected):
    model = quantized(nodes, ranges)

    exact, fast = run(model, IMAGES, optimised=False), run(model, IMAGES)

    wanted = expected(IMAGES)
    step = float(OUT.scale)
    assert len(np.unique(wanted)) > 20
    np.testing.assert_allclose(exact, wanted, atol=step / 100)
    if sums_saturate():
        return  # the integer kernels of this CPU are not exact
    # A tie in an integer kernel may round the other way, here and in an earlier layer.
    assert np.abs(fast - wanted).max() <= 2.01 * step
    assert np.mean(np.abs(fast - wanted) > step / 2) < 0.02


def test_weights_are_int8_a_channel_and_biases_int32():
    model = quantized(CASES[0][1], CASES[0][2])
    tensors = tensors_of(model)
    readers = {one.input[0]: one for one in model.graph.node if one.op_type == "DequantizeLinear"}

    scale = tensors[readers["w1"].input[1]]

    assert tensors["w1"].dtype == np.int8 and np.abs(tensors["w1"]).max() == 127
    assert not tensors["w1"][:, 3].any()  # the channel that makes them four
    np.testing.assert_allclose(scale, np.abs(W1).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_allclose(tensors["w1"][:, :3] * scale.reshape(-1, 1, 1, 1), W1, atol=scale.max() * 0.501)
    biases = [one for name, one in readers.items() if name in tensors and tensors[name].dtype == np.int32]
    restored = [tensors[one.input[0]] * tensors[one.input[1]] for one in biases]
    np.testing.assert_allclose(restored[0], B1, atol=1e-4)
    np.testing.assert_allclose(tensors[biases[0].input[1]], scale / np.float32(255), rtol=1e-6)


def test_activations_are_uint8_with_the_scales_of_their_ranges():
    model = quantized(CASES[0][1], CASES[0][2])
    tensors = tensors_of(model)

    written = [
        (float(tensors[one.input[1]]), int(tensors[one.input[2]]), tensors[one.input[2]].dtype)
        for one in model.graph.node
        if one.op_type == "QuantizeLinear"
    ]

    chosen = [UNIT_RANGE, A, UNIT_RANGE, B, OUT]
    assert written == [(float(each.scale), int(each.zero_point), np.uint8) for each in chosen]
    assert [zero for _, zero, _ in written] == [0, 115, 0, 32, 153]


def test_a_dead_channel_and_a_constant_activation_stay_finite():
    weight, bias = W1.copy(), B1.copy()
    weight[2] = 0  # dead, but with a bias
    weight[3], bias[3] = 0, 0  # dead altogether
    model = build([FIRST, node("Conv", "a w3 b3", "output0")], {**CONSTANTS, "w1": weight, "b1": bias})
    ranges = {"images": ActivationRange(0, 0), "a": A, "output0": OUT}
    written = apply_recipe(model, QuantizationRecipe(X86, ranges))

    black = run(written, np.zeros_like(IMAGES))

    assert all(np.isfinite(value).all() for value in tensors_of(written).values())
    a = rounded(np.broadcast_to(bias.reshape(1, -1, 1, 1), (1, 6, 16, 16)), A)
    np.testing.assert_allclose(black, last(a, A), atol=1.01 * float(OUT.scale))


def test_equal_constants_are_stored_once_and_inputs_keep_their_names():
    model = quantized(CASES[4][1], CASES[4][2])

    content = [tensor.raw_data + bytes([tensor.data_type, len(tensor.dims)]) for tensor in model.graph.initializer]

    assert len(content) == len(set(content))
    assert [value.name for value in [*model.graph.input, *model.graph.output]] == ["images", "output0"]
    assert {one.name for one in model.graph.node if one.op_type == "Conv"} == {"a", "b", "output0"}
