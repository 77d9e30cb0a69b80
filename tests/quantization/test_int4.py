"""Weights in int4 become the int8 weights that convolutions compute with, exactly, and take half the bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import IMAGE_SIZE, build, conv, detector, node, random_conv, rounded, run
from tests.quantization.labelled import write_outlying
from visionlora import cli
from visionlora.errors import QuantizationError, UsageError
from visionlora.int8 import QuantizationRecipe, Scheme, apply_recipe, load_float_model
from visionlora.int8.adapter_recipe import constants_digest
from visionlora.int8.int4 import group_size, int4_groups
from visionlora.int8.plan import plan_quantization
from visionlora.int8.ranges import ActivationRange
from visionlora.int8.scheme import GENERIC, X86, scheme_for
from visionlora.int8.weights import quantize_conv
from visionlora.models import parse_spec
from visionlora.quantization import quantize
from visionlora.quantization.checks import MAX_SIZE_RATIO
from visionlora.reporting.parameters import count_parameters
from visionlora.runtime import Detector, OnnxNetwork
from visionlora.tasks import DETECT

INT4 = replace(X86, weights="int4")


def nibbles(tensor: onnx.TensorProto) -> np.ndarray:
    """The numbers of a 4-bit constant, unpacked by the definition of ONNX: the first of two in the lower half."""
    packed = np.frombuffer(tensor.raw_data, dtype=np.uint8)
    numbers = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: np.prod(tensor.dims)].astype(np.int64)
    if tensor.data_type == onnx.TensorProto.INT4:
        numbers = np.where(numbers > 7, numbers - 16, numbers)
    return numbers.reshape(tensor.dims)


def weights_by_definition(weight: np.ndarray, group: int) -> np.ndarray:
    """Each group on 15 levels, whose distance is the smallest multiple of the channel's that reaches its largest."""
    values = np.zeros_like(weight)
    for channel, made in zip(weight, values, strict=True):
        flat, scale = channel.reshape(-1), np.float32(np.abs(channel).max() / 105 or 1)
        for start in range(0, flat.size, group):
            part = flat[start : start + group]
            multiple = next(m for m in range(1, 16) if m == 15 or 7.01 * m * scale >= np.abs(part).max())
            levels = np.clip(np.round(part / (scale * np.float32(multiple))), -7, 7)
            made.reshape(-1)[start : start + group] = levels * multiple * scale
    return values


def one_layer(opset: int = 17) -> tuple[onnx.ModelProto, QuantizationRecipe, np.ndarray, np.ndarray]:
    """A graph of one convolution that gets int4 weights, its recipe, weight and bias."""
    weight, bias = random_conv(np.random.default_rng(0), 6, 8, 3)
    weight[:, 4:] *= 0.05
    weight[2] = 0
    nodes = [node("Conv", "images conv.weight conv.bias", "output0", pads=[1, 1, 1, 1])]
    model = build(nodes, {"conv.weight": weight, "conv.bias": bias}, shape=(1, 8, 6, 6), opset=opset)
    ranges = {"images": ActivationRange(0.0, 1.0), "output0": ActivationRange(-4.0, 4.0)}
    return model, QuantizationRecipe(replace(GENERIC, weights="int4"), ranges), weight, bias


@pytest.mark.parametrize(
    ("shape", "group"),
    [
        ((64, 64, 1, 1), 16),
        ((64, 72, 1, 1), 12),
        ((8, 4, 3, 3), 12),
        ((64, 16, 3, 3), 16),
        ((16, 1, 5, 5), None),
        ((16, 3, 4, 4), None),
        ((8, 17, 1, 1), None),
    ],
    ids=["pointwise", "no multiple of 16", "small", "3x3", "depthwise", "reads the picture", "prime"],
)
def test_groups_cut_a_channel_without_remainder(shape, group):
    assert group_size(shape) == group


def test_the_smallest_layers_stay_int8():
    shapes = {"a": (16, 16, 1, 1), "b": (64, 64, 3, 3), "c": (16, 64, 3, 3), "d": (8, 17, 1, 1), "e": (32, 32, 1, 1)}
    assert int4_groups(shapes) == {"b": 16, "c": 16}  # 1416 of 47496 numbers are in the others


def test_levels_times_multiplier_are_the_int8_weight():
    weight, bias = random_conv(np.random.default_rng(1), 8, 16, 3)
    weight *= 10.0 ** np.arange(-4, 4).reshape(-1, 1, 1, 1).astype(np.float32)
    weight[:, ::3] *= 0.03

    made = quantize_conv(weight, bias, np.float32(0.02), 16)

    assert made.int4.levels.min() >= -7 and made.int4.levels.max() <= 7
    assert made.int4.multiplier.min() >= 1 and made.int4.multiplier.max() == 15
    product = made.int4.levels.astype(int) * made.int4.multiplier
    assert np.array_equal(product.reshape(weight.shape), made.weight) and np.abs(product).max() == 105
    step = (made.int4.multiplier * made.scale.reshape(-1, 1, 1)).repeat(16, axis=2).reshape(weight.shape)
    assert np.all(np.abs(made.weight * made.scale.reshape(-1, 1, 1, 1) - weight) <= 0.501 * step)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_layer_computes_what_its_int4_weights_say(opset):
    model, recipe, weight, bias = one_layer(opset)
    images = np.random.default_rng(2).random((1, 8, 6, 6), dtype=np.float32)

    made = apply_recipe(model, recipe)

    onnx.checker.check_model(made, full_check=True)
    kept = weights_by_definition(weight, 12)
    expected = rounded(conv(rounded(images, recipe.ranges["images"]), kept, bias, pad=1), recipe.ranges["output0"])
    one_level = float(recipe.ranges["output0"].scale)
    for optimised in (False, True):
        difference = np.abs(run(made, images, optimised=optimised) - expected)
        assert difference.max() <= 1.001 * one_level and (difference > 0.1 * one_level).mean() < 0.02


def test_the_file_holds_levels_and_multipliers_in_4_bits():
    model, recipe, weight, _ = one_layer()
    made = {tensor.name: tensor for tensor in apply_recipe(model, recipe).graph.initializer}

    levels = made["conv.weight"]
    (multiplier,) = (tensor for tensor in made.values() if tensor.data_type == onnx.TensorProto.UINT4)

    assert levels.data_type == onnx.TensorProto.INT4 and len(levels.raw_data) == weight.size // 2
    expected = quantize_conv(weight, None, np.float32(1), 12)
    assert np.array_equal(nibbles(levels), expected.int4.levels)
    assert np.array_equal(nibbles(multiplier), expected.int4.multiplier)


def test_an_odd_number_of_weights_is_kept():
    weight = np.float32([[-3, 1, 2, 5, -7, 7, 0.4, -0.4, 4]]).reshape(1, 9, 1, 1) / 7
    nodes = [node("Conv", "images w", "output0")]
    model = build(nodes, {"w": weight}, shape=(1, 9, 2, 2))
    ranges = {"images": ActivationRange(0.0, 1.0), "output0": ActivationRange(-4.0, 4.0)}

    made = apply_recipe(model, QuantizationRecipe(replace(GENERIC, weights="int4"), ranges))

    (levels,) = (tensor for tensor in made.graph.initializer if tensor.name == "w")
    assert nibbles(levels).ravel().tolist() == [-3, 1, 2, 5, -7, 7, 0, 0, 4]
    assert np.allclose(run(made, np.ones((1, 9, 2, 2), np.float32)), np.round(9 / 7 * 255 / 8) * 8 / 255, atol=1e-6)


@pytest.mark.parametrize("target", ["x86", "generic"])
def test_a_file_with_int4_weights_computes_in_int8_and_is_smaller(target, model, data, tmp_path):
    plain = quantize(model, data, tmp_path / "int8.onnx", images=8, target=target)
    small = quantize(model, data, tmp_path / "int4.onnx", images=8, target=target, weights="int4")

    assert (small.int8_convs, small.convs) == (plain.int8_convs, plain.convs) == (4, 4)
    assert small.bytes < 0.7 * plain.bytes
    assert (small.int4_convs, plain.int4_convs) == (1, 0)
    network = OnnxNetwork(small.path)
    scheme = network.metadata["settings"]["scheme"]
    assert scheme["weights"].startswith("int4, symmetric, in groups of up to 16") and scheme["name"] == target
    wanted, got = (
        one(np.full((1, 3, IMAGE_SIZE, IMAGE_SIZE), 0.5, np.float32))[0] for one in (OnnxNetwork(model), network)
    )
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.97
    assert Detector(small.path).names == network.names


def test_the_same_recipe_gives_the_same_bytes_and_other_weights_none_of_them(model, data, tmp_path):
    made = quantize(model, data, tmp_path / "int4.onnx", images=8, weights="int4")

    again = QuantizationRecipe.from_json(made.recipe.to_json())
    assert again == made.recipe and again.scheme.weights == "int4"
    float_model, written = load_float_model(model, DETECT), onnx.load(made.path)
    assert constants_digest(apply_recipe(float_model, again)) == constants_digest(written)
    plain = replace(again, scheme=X86)
    assert constants_digest(apply_recipe(float_model, plain)) != constants_digest(written)


def test_recipes_without_int4_are_written_as_before():
    recipe = QuantizationRecipe(X86, {"x": ActivationRange(0.0, 1.0)})
    assert "weights" not in json.loads(recipe.to_json())["scheme"]
    assert QuantizationRecipe.from_json(recipe.to_json()) == recipe


def test_a_layer_kept_in_float_changes_no_other():
    graph = detector(width=96).graph
    everything = plan_quantization(graph, int4=True)
    fewer = plan_quantization(graph, float_layers=("box",), int4=True)
    assert everything.int4 == fewer.int4 == {"mix": 16}
    assert plan_quantization(graph, float_layers=("mix",), int4=True).int4 == {}
    assert plan_quantization(graph, int8_layers=("mix",), int4=True).int4 == {}
    with pytest.raises(QuantizationError, match="int8 layers: expected names of convolutions of this graph"):
        plan_quantization(graph, int8_layers=("mixed",), int4=True)
    assert plan_quantization(graph).int4 == {}


@pytest.mark.parametrize(
    ("target", "weights", "message"),
    [
        ("tensorrt", "int4", "--target tensorrt: expected int8 weights, got int4"),
        ("arm", "int4", "--target arm: expected int8 weights, got int4"),
        ("x86", "int2", "expected one of int8, int7, int4"),
    ],
)
def test_weights_that_a_target_does_not_take_are_refused(target, weights, message, model, data, tmp_path):
    with pytest.raises(UsageError, match=message):
        quantize(model, data, tmp_path / "int4.onnx", target=target, weights=weights)
    with pytest.raises(UsageError, match=message):
        Scheme(**{**vars(scheme_for(target)), "weights": weights})


def test_attributes_that_became_constants_in_opset_21_are_read():
    weight, _ = random_conv(np.random.default_rng(0), 16, 16, 1)
    nodes = [
        node("Split", "images", "left right", axis=1),
        node("ReduceMean", "right", "mean", axes=[2, 3], keepdims=1),
        node("Add", "left mean", "sum"),
        node("Conv", "sum w", "output0"),
    ]
    model = build(nodes, {"w": weight}, shape=(1, 32, 4, 4))
    ranges = {name: ActivationRange(-4.0, 4.0) for name in ("images", "left", "right", "mean", "sum", "output0")}
    images = np.random.default_rng(1).normal(0, 1, (1, 32, 4, 4)).astype(np.float32)

    made = apply_recipe(model, QuantizationRecipe(replace(GENERIC, weights="int4"), ranges))

    onnx.checker.check_model(made, full_check=True)
    assert np.corrcoef(run(made, images).ravel(), run(model, images).ravel())[0, 1] > 0.99


def test_an_operation_that_opset_21_does_not_have_is_refused_by_name():
    model, recipe, _, _ = one_layer()
    model.graph.node.append(node("Experiment", "output0", "output1"))
    with pytest.raises(QuantizationError, match=r"int4 weights need opset 21.*Experiment"):
        apply_recipe(model, recipe)


def test_the_command_says_how_many_layers_have_int4_weights(model, data, tmp_path, capsys):
    options = ["--model", model, "--data", data, "--out", tmp_path / "int4.onnx", "--images", "4", "--weights", "int4"]

    assert cli.main(["quantize", *map(str, options)]) == 0

    assert "4 of 4 convolutions run in int8, 1 of them from int4 weights; ranges" in capsys.readouterr().out


def test_multipliers_are_no_parameters(model, data, tmp_path):
    files = [quantize(model, data, tmp_path / f"{kind}.onnx", images=4, weights=kind).path for kind in ("int8", "int4")]

    int8, int4 = (count_parameters(parse_spec(file), OnnxNetwork(file)) for file in files)

    assert int4 == int8


def test_a_budget_takes_int8_weights_where_int4_ones_lose_too_much_and_keeps_them_elsewhere(tmp_path):
    detecting, labelled = write_outlying(tmp_path, None)

    made = quantize(detecting, labelled, tmp_path / "int4.onnx", weights="int4", max_drop=0.3)

    first, last = made.report.trials
    assert not first.passed and last.passed and last.int8_groups == ("narrow",)
    assert made.recipe.int8_layers == ("narrow",) and not made.recipe.float_layers
    assert made.int4_convs == 1
    assert OnnxNetwork(made.path).metadata["settings"]["int8_layers"] == ["narrow"]
    assert made.report.sentence.startswith("int4 against float: ")
    assert "float: no group of layers; int8 instead of int4 weights: narrow" in made.report.sentence
    graph = onnx.load(made.path)
    assert [list(tensor.dims) for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT4] == [
        [48, 27, 16]  # of `mix`: 48 outputs
    ]
    again = QuantizationRecipe.from_json(made.recipe.to_json())
    assert again == made.recipe
    assert constants_digest(apply_recipe(load_float_model(detecting, DETECT), again)) == constants_digest(graph)


def test_a_budget_takes_float_where_int8_weights_are_not_enough(tmp_path, monkeypatch):
    monkeypatch.setitem(MAX_SIZE_RATIO, "int4", 0.45)  # the names of so small a detector fill what is allowed
    detecting, labelled = write_outlying(tmp_path, "stem")

    made = quantize(detecting, labelled, tmp_path / "int4.onnx", weights="int4", max_drop=0.3)

    assert any(trial.int8_groups for trial in made.report.trials) and not made.report.trials[0].passed
    assert {"stem", "narrow"} <= set(made.recipe.float_layers) and not made.recipe.int8_layers
    assert onnx.TensorProto.INT4 in {tensor.data_type for tensor in onnx.load(made.path).graph.initializer}
