"""Rewrites for onnxruntime's kernels change nothing but the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.quantization.graphs import build, node, random_conv, run, silu, tensors_of
from visionlora.int8 import QuantizationRecipe, Scheme, apply_recipe
from visionlora.int8.kernels import is_doubling, multiples_of_half
from visionlora.int8.scheme import ARM, GENERIC, X86
from visionlora.quantization import calibrate

IMAGES = np.random.default_rng(0).uniform(0, 1, (3, 1, 3, 16, 16)).astype(np.float32)
SCALES = {"double": np.float32([1, 1, 2, 2])}
UPSAMPLE = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}


def optimised_nodes(model, folder):
    """Return the nodes of the graph that onnxruntime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx").graph.node


def upsampling(**attributes):
    w, b = random_conv(np.random.default_rng(1), 8, 3, 3)
    w2, b2 = random_conv(np.random.default_rng(2), 5, 8, 3)
    nodes = [
        node("Conv", "images w b", "a", pads=[1, 1, 1, 1], strides=[2, 1]),  # not square: 8 x 16
        node("Resize", "a  double", "big", **{**UPSAMPLE, **attributes}),
        node("Conv", "big w2 b2", "output0"),
    ]
    return build(nodes, {"w": w, "b": b, "w2": w2, "b2": b2, **SCALES})


@pytest.mark.parametrize("symmetric", [False, True])
def test_doubling_and_a_fourth_channel_give_the_same_levels(symmetric):
    recipe = calibrate(upsampling(), IMAGES, Scheme("plain", symmetric=symmetric, weights="int7"))  # exact on any CPU

    plain, fast = (
        apply_recipe(upsampling(), replace(recipe, scheme=replace(recipe.scheme, rewrites=rewrites)))
        for rewrites in (False, True)
    )

    assert [sum(one.op_type == "Resize" for one in model.graph.node) for model in (plain, fast)] == [1, 0]
    assert sum(one.op_type == "Pad" for one in fast.graph.node) == 1
    for images in IMAGES:
        np.testing.assert_array_equal(run(fast, images), run(plain, images))
        np.testing.assert_array_equal(run(fast, images, optimised=False), run(plain, images, optimised=False))


@pytest.mark.parametrize("target", [X86, ARM], ids=["unsigned", "signed"])
def test_a_relu_beside_a_silu_clips_levels_and_leaves_the_convolution_in_int8(target, tmp_path):
    """The two share the range of the concatenation, which begins below zero and so does not clip as Relu does."""
    (w, b), (w2, b2) = (random_conv(np.random.default_rng(seed), 8, 3, 3) for seed in (1, 2))
    w3, b3 = random_conv(np.random.default_rng(3), 4, 16, 1)
    nodes = [
        node("Conv", "images w b", "a"),
        node("Relu", "a", "r"),
        node("Conv", "images w2 b2", "c"),
        *silu("c", "s"),
        node("Concat", "r s", "both", axis=1),
        node("Conv", "both w3 b3", "output0"),
    ]
    model = build(nodes, {"w": w, "b": b, "w2": w2, "b2": b2, "w3": w3, "b3": b3})
    recipe = calibrate(model, IMAGES, target)
    plain, fast = (
        apply_recipe(model, replace(recipe, scheme=replace(target, rewrites=rewrites))) for rewrites in (False, True)
    )

    kinds = [one.op_type for one in fast.graph.node]
    assert (kinds.count("Relu"), kinds.count("Clip")) == (0, 1)
    for images in IMAGES:
        np.testing.assert_array_equal(run(fast, images, optimised=False), run(plain, images, optimised=False))
    if target is X86:
        made = [[one.op_type for one in optimised_nodes(each, tmp_path)] for each in (plain, fast)]
        assert [kinds.count("QLinearConv") for kinds in made] == [2, 3]


@pytest.mark.parametrize("others", ["images", "a"], ids=["also read otherwise", "read by the convolution alone"])
@pytest.mark.parametrize("is_open", [False, True], ids=["fixed size", "open size"])
def test_pixels_get_the_fourth_channel_without_a_number_changed(others, is_open):
    w, b = random_conv(np.random.default_rng(1), 3, 3, 3)
    nodes = [node("Conv", "images w b", "a", pads=[1, 1, 1, 1]), node("Relu", others, "r")]
    model = build([*nodes, node("Add", "a r", "output0")], {"w": w, "b": b})
    recipe = calibrate(model, IMAGES, X86)
    if is_open:
        del model.graph.value_info[:], model.graph.output[0].type.tensor_type.shape.dim[:]
        for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dimension.dim_param = "side"

    reals, pixels = (apply_recipe(model, replace(recipe, image=kind)) for kind in ("float32", "uint8"))

    picture = np.random.default_rng(3).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    tensor = picture.transpose(0, 3, 1, 2) / np.float32(255)
    for optimised in (False, True):
        wanted = run(reals, tensor, optimised=optimised)
        np.testing.assert_array_equal(run(pixels, picture, optimised=optimised), wanted)
    assert [tensors_of(pixels)["w"].shape[1], sum(one.op_type == "Pad" for one in pixels.graph.node)] == [4, 1]


def test_onnxruntime_leaves_the_step_from_pixels_in_front(tmp_path):
    """Moved behind the fourth channel it would cost as much as the first convolution."""
    w, b = random_conv(np.random.default_rng(1), 8, 3, 3)
    model = build([node("Conv", "images w b", "a"), *silu("a", "output0")], {"w": w, "b": b})
    written = apply_recipe(model, replace(calibrate(model, IMAGES, X86), image="uint8"))
    kinds = [one.op_type for one in optimised_nodes(written, tmp_path) if one.op_type != "DequantizeLinear"]

    assert kinds[:4] == ["Reshape", "Transpose", "Pad", "Reshape"]


@pytest.mark.parametrize(
    ("attributes", "scales", "doubles"),
    [
        ({}, [1, 1, 2, 2], True),
        ({"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}, [1, 1, 2, 2], True),
        ({"nearest_mode": "ceil"}, [1, 1, 2, 2], False),
        ({"coordinate_transformation_mode": "align_corners"}, [1, 1, 2, 2], False),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, [1, 1, 2, 2], False),
        ({}, [1, 1, 2, 3], False),
    ],
    ids=["torch", "half a pixel", "upwards", "corners", "linear", "three times"],
)
def test_only_what_repeats_each_pixel_is_a_doubling(attributes, scales, doubles):
    resize = node("Resize", "images  double", "output0", **{**UPSAMPLE, **attributes})
    constants = {"double": np.float32(scales)}

    assert is_doubling(resize, constants) is doubles

    repeated = IMAGES[0].repeat(2, axis=2).repeat(2, axis=3)
    got = run(build([resize], constants), IMAGES[0])
    assert (got.shape == repeated.shape and np.array_equal(got, repeated)) is doubles


def test_a_graph_of_open_size_keeps_its_resize():
    model = upsampling()
    recipe = calibrate(model, IMAGES, X86)
    del model.graph.value_info[:]
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "side"

    written = apply_recipe(model, recipe)

    assert sum(one.op_type == "Resize" for one in written.graph.node) == 1
    assert np.isfinite(run(written, IMAGES[0])).all()


def test_a_large_constant_of_halves_takes_a_byte_a_number():
    centres = np.arange(3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16) % 128 / 2
    model = build([node("Add", "images centres", "output0")], {"centres": centres})

    plain, small = (apply_recipe(model, QuantizationRecipe(scheme, {})) for scheme in (GENERIC, X86))

    assert small.ByteSize() < plain.ByteSize() - 2.5 * centres.size
    np.testing.assert_array_equal(run(small, IMAGES[0]), run(plain, IMAGES[0]))


@pytest.mark.parametrize("value", [-0.5, 0.25, 128, np.nan, np.inf])
def test_other_constants_stay_float(value):
    array = np.zeros(999, dtype=np.float32)
    assert multiples_of_half(array) is not None
    array[7] = value

    assert multiples_of_half(array) is None
    assert multiples_of_half(np.zeros(20, dtype=np.float32)) is None
