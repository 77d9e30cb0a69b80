"""Each target gets the integers that its runtime computes in, where it wants them; pixels change no number."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import IMAGE_SIZE, save, tensors_of
from tests.quantization.graphs import detector as graph_of_detector
from visionlora.errors import ModelError, QuantizationError, UsageError
from visionlora.int8 import load_float_model
from visionlora.int8.scheme import ARM, SCHEMES, X86
from visionlora.quantization import quantize
from visionlora.quantization.checks import check_speed
from visionlora.runtime import Detector, OnnxNetwork
from visionlora.tasks import DETECT
from visionlora.vision.preprocess import letterbox, read_image

SCRIPT = Path(__file__).parents[2] / "export" / "detect.py"


def zero_points_of(model: onnx.ModelProto) -> list[np.ndarray]:
    tensors = tensors_of(model)
    steps = [one for one in model.graph.node if one.op_type == "QuantizeLinear"]
    return [tensors[one.input[2]] for one in steps]


@pytest.mark.parametrize("target", SCHEMES)
def test_every_target_sees_what_the_float_model_sees(target, model, data, tmp_path):
    made = quantize(model, data, tmp_path / "int8.onnx", images=8, target=target)

    tensor, _ = letterbox(read_image(data.parent / "images/train/03.png"), IMAGE_SIZE)
    wanted, got = (OnnxNetwork(path)(tensor[None])[0][0] for path in (model, made.path))
    assert (made.int8_convs, made.convs) == (4, 4)
    assert np.abs(got - wanted).mean(axis=1)[4:].mean() < 0.07 * wanted[4:].std()
    assert np.abs(got - wanted)[:4].mean() < 0.07 * wanted[:4].std()


@pytest.mark.parametrize("target", ["arm", "tensorrt"])
def test_symmetric_targets_have_int8_activations_without_zero_points(target, model, data, tmp_path):
    made = onnx.load(quantize(model, data, tmp_path / "int8.onnx", images=4, target=target).path)

    assert all(zero.dtype == np.int8 and zero == 0 for zero in zero_points_of(made))
    assert not any(tensor.dtype == np.uint8 for tensor in tensors_of(made).values())


def test_tensorrt_gets_steps_before_convolutions_only_and_float_biases(model, data, tmp_path):
    made = onnx.load(quantize(model, data, tmp_path / "int8.onnx", images=4, target="tensorrt").path)

    tensors = tensors_of(made)
    producer = {name: one for one in made.graph.node for name in one.output}
    readers = {name: [one.op_type for one in made.graph.node if name in one.input] for name in producer}
    for conv in (one for one in made.graph.node if one.op_type == "Conv"):
        picture, weight = (producer[name] for name in conv.input[:2])
        assert picture.op_type == weight.op_type == "DequantizeLinear"
        assert producer[picture.input[0]].op_type == "QuantizeLinear"
        assert tensors[weight.input[0]].dtype == np.int8 and tensors[weight.input[1]].ndim == 1
        assert tensors[conv.input[2]].dtype == np.float32
        assert "QuantizeLinear" not in readers[conv.output[0]]  # TensorRT fuses it with what follows


def test_generic_is_plain_qdq_around_every_operation(model, data, tmp_path):
    made = onnx.load(quantize(model, data, tmp_path / "int8.onnx", images=4, target="generic").path)

    producer = {name: one.op_type for one in made.graph.node for name in one.output}
    for one in made.graph.node:
        if one.op_type in ("Split", "MaxPool"):
            assert producer[one.input[0]] == "DequantizeLinear"
    assert {one.op_type for one in made.graph.node}.isdisjoint({"Pad", "QLinearConv"})


@pytest.mark.parametrize("target", ["x86", "arm", "generic", "tensorrt"])
def test_pixels_give_the_same_output_to_the_bit(target, model, data, tmp_path):
    reals, pixels = (
        OnnxNetwork(quantize(model, data, tmp_path / f"{kind}.onnx", images=4, target=target, input=kind).path)
        for kind in ("float32", "uint8")
    )
    picture = np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    tensor = picture.transpose(0, 3, 1, 2) / np.float32(255)

    assert (reals.takes_pixels, pixels.takes_pixels) == (False, True)
    assert pixels.image_size == IMAGE_SIZE
    np.testing.assert_array_equal(pixels.run_pixels(picture), reals(tensor))
    np.testing.assert_array_equal(pixels(tensor), reals(tensor))
    with pytest.raises(UsageError, match="expected pixels"):
        pixels.run_pixels(picture[:, :9])
    with pytest.raises(UsageError, match="takes float32"):
        reals.run_pixels(picture)


def test_the_script_for_the_device_takes_both(model, data, tmp_path):
    spec = importlib.util.spec_from_file_location("detect_for_pixels", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    found = [
        script.Detector(quantize(model, data, tmp_path / f"{kind}.onnx", images=4, input=kind).path).predict(
            data.parent / "images/train/03.png", confidence=0.05
        )
        for kind in ("float32", "uint8")
    ]

    assert found[0] == found[1] and found[0]


def test_the_detector_takes_both(model, data, tmp_path):
    pictures = [data.parent / f"images/train/0{index}.png" for index in range(3)]
    reals, pixels = (
        Detector(quantize(model, data, tmp_path / f"{kind}.onnx", images=4, input=kind).path, confidence=0.05)
        for kind in ("float32", "uint8")
    )

    found = [(one.boxes_xyxy.tolist(), one.scores.tolist()) for one in reals.predict(pictures)]
    assert pixels.network.takes_pixels and any(boxes for boxes, _ in found)
    assert [(one.boxes_xyxy.tolist(), one.scores.tolist()) for one in pixels.predict(pictures)] == found


def test_unknown_choices_are_refused(model, data, tmp_path):
    for wrong in ({"target": "riscv"}, {"method": "guess"}, {"input": "int4"}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected one of"):
            quantize(model, data, tmp_path / "int8.onnx", images=2, **wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_is_slower_is_refused(tmp_path, monkeypatch):
    """A far wider float file stands for a slow quantized one."""
    tiny, fast, slow = (save(graph_of_detector(width=width), tmp_path / f"{width}.onnx") for width in (48, 500, 1000))
    monkeypatch.setattr("visionlora.quantization.checks.platform.machine", lambda: "x86_64")

    with pytest.raises(QuantizationError, match=r"slower than the float one: .* ms against"):
        check_speed(fast, slow, X86)
    assert check_speed(slow, fast, X86) > 1.1
    assert check_speed(tiny, slow, X86) == 1.0  # too short to say anything
    assert check_speed(fast, slow, ARM) == 1.0  # not timed here


def test_an_operation_that_onnxruntime_lacks_is_named(data, tmp_path):
    graph = graph_of_detector()
    graph.graph.node[0].op_type = "MagicConv"
    graph.graph.node[0].domain = "made.up"
    graph.opset_import.append(onnx.helper.make_opsetid("made.up", 1))
    path = save(graph, tmp_path / "model.onnx")

    with pytest.raises(ModelError, match="MagicConv"):
        quantize(path, data, tmp_path / "int8.onnx", images=2)
    assert load_float_model(path, DETECT).graph.node[0].op_type == "MagicConv"


def test_activations_with_an_outlier_still_give_the_float_scores(data, tmp_path):
    """One channel of the first layer is a thousand times the others, and nothing reads it."""
    graph = graph_of_detector()
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, index in (("stem.bias", np.s_[0]), ("mix.weight", np.s_[:, 0])):
        array = onnx.numpy_helper.to_array(tensors[name]).copy()
        array[index] = 40 if name == "stem.bias" else 0
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    path = save(graph, tmp_path / "model.onnx")
    picture, _ = letterbox(read_image(data.parent / "images/train/03.png"), IMAGE_SIZE)
    wanted = OnnxNetwork(path)(picture[None])[0][0, 4:]

    def error(method: str) -> float:
        out = tmp_path / f"{method}.onnx"
        return float(
            np.abs(
                OnnxNetwork(quantize(path, data, out, images=8, method=method).path)(picture[None])[0][0, 4:] - wanted
            ).mean()
        )

    assert error("activation") < 0.35 * wanted.std()
