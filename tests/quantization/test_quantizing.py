"""From a float file to an int8 one, or to no file at all."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.quantization.graphs import IMAGE_SIZE, NAMES, build, detector, node, random_conv, save
from visionlora.errors import DataError, ModelError, OutputError, QuantizationError, UsageError
from visionlora.files import sha256_of
from visionlora.formats.seal import is_sealed
from visionlora.int8.histogram import Histogram
from visionlora.int8.plan import Use
from visionlora.int8.scheme import X86
from visionlora.quantization import QuantizedModel, quantize, quantizing, sums_saturate
from visionlora.quantization.calibration import range_for
from visionlora.quantization.checks import MAX_SIZE_RATIO
from visionlora.runtime import OnnxNetwork
from visionlora.vision.preprocess import letterbox, read_image

SHAPE = (1, 3, IMAGE_SIZE, IMAGE_SIZE)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_detector_becomes_small_and_int8_and_sees_the_same(model, data, tmp_path):
    made = quantize(model, data, tmp_path / "int8.onnx", images=10)

    assert made == QuantizedModel(
        path=tmp_path / "int8.onnx",
        bytes=(tmp_path / "int8.onnx").stat().st_size,
        float_bytes=model.stat().st_size,
        int8_convs=4,
        convs=4,
        float_layers=(),
        images=10,
        recipe=made.recipe,
    )
    assert made.bytes < 0.4 * made.float_bytes
    tensor, _ = letterbox(read_image(data.parent / "images/train/03.png"), IMAGE_SIZE)
    wanted, got = (OnnxNetwork(path)(tensor[None])[0][0] for path in (model, made.path))
    assert wanted[4:].std() > 0.05
    assert np.abs(got[4:] - wanted[4:]).mean() < 0.05 * wanted[4:].std()
    assert np.abs(got[:4] - wanted[:4]).mean() < 0.05 * wanted[:4].std()


def test_the_file_says_what_it_is_and_what_made_it(model, data, tmp_path):
    made = quantize(model, data, tmp_path / "int8.onnx", images=5, seed=3)

    assert is_sealed(made.path)
    properties = {entry.key: entry.value for entry in onnx.load(made.path).metadata_props}
    card = json.loads(properties["visionlora"])

    assert properties["task"] == "detect" and properties["imgsz"] == "[64, 64]"
    assert (card["kind"], card["names"], card["nms"]) == ("int8", list(NAMES), True)
    assert card["preprocessing"]["image_size"] == IMAGE_SIZE
    assert card["parents"] == {"onnx": sha256_of(model)}
    assert (card["settings"]["seed"], card["settings"]["images"]) == (3, 5)
    assert card["settings"]["scheme"]["name"] == "x86"
    shown = card["settings"]["calibration"]
    assert len(shown) == 5 and "images/train/07.png" in shown  # the only one of the class inclusion
    assert all((data.parent / one).is_file() for one in shown)


def test_the_same_seed_gives_the_same_bytes(model, data, tmp_path):
    first, again, other = (
        quantize(model, data, tmp_path / name, images=4, seed=seed).path.read_bytes()
        for name, seed in (("a.onnx", 1), ("b.onnx", 1), ("c.onnx", 2))
    )

    assert first == again != other


def test_an_existing_file_is_kept_unless_told_otherwise(model, data, tmp_path):
    out = tmp_path / "int8.onnx"
    out.write_text("mine")

    with pytest.raises(OutputError, match="exists already"):
        quantize(model, data, out)
    assert out.read_text() == "mine"
    assert quantize(model, data, out, images=2, overwrite=True).bytes == out.stat().st_size


@pytest.mark.parametrize(("weights", "largest", "warned"), [("int8", 127, True), ("int7", 63, False)])
def test_sums_of_int7_weights_do_not_saturate(weights, largest, warned, model, data, tmp_path, caplog, monkeypatch):
    assert not sums_saturate(63)  # on any CPU
    monkeypatch.setattr(quantizing, "sums_saturate", lambda: True)
    made = quantize(model, data, tmp_path / "a.onnx", images=2, weights=weights)
    assert ("use --weights int7" in caplog.text) == warned
    kept = [numpy_helper.to_array(each) for each in onnx.load(made.path).graph.initializer]
    assert max(np.abs(each.astype(int)).max() for each in kept if each.dtype == np.int8 and each.ndim == 4) == largest
    assert OnnxNetwork(made.path).metadata["settings"]["scheme"]["weights"].startswith("int8 in [-63, 63]") != warned


def test_pictures_of_another_domain_are_warned_of(model, data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(quantizing, "sums_saturate", lambda: False)
    quantize(model, data, tmp_path / "a.onnx", images=2)
    assert not caplog.records
    strange = tmp_path / "data.yaml"
    strange.write_text(f"train: {data.parent}/images/train\nnames: [cat, dog, cow, pig, hen, {', '.join('abcd')}]\n")

    quantize(model, strange, tmp_path / "b.onnx", images=2)

    assert "(cat, dog, cow, pig, hen and 4 more) are none of the model's (scratch, pit, inclusion)" in caplog.text


def test_wrong_arguments_are_refused(model, data, tmp_path):
    with pytest.raises(UsageError, match="at least 1 calibration image, got 0"):
        quantize(model, data, tmp_path / "int8.onnx", images=0)
    with pytest.raises(UsageError, match="another file than the float model"):
        quantize(model, data, model, overwrite=True)
    with pytest.raises(ModelError, match=r"model\.pt: expected an ONNX file"):
        quantize(tmp_path / "model.pt", data, tmp_path / "int8.onnx")
    with pytest.raises(DataError, match=r"nowhere\.yaml"):
        quantize(model, tmp_path / "nowhere.yaml", tmp_path / "int8.onnx")
    assert leftovers(tmp_path) == ["model.onnx"]


def test_a_quantized_file_is_not_quantized_again(model, data, tmp_path):
    made = quantize(model, data, tmp_path / "int8.onnx", images=2)

    with pytest.raises(ModelError, match="got a quantized one"):
        quantize(made.path, data, tmp_path / "again.onnx")


def test_final_detections_are_refused(data, tmp_path):
    """A stock end-to-end export: rows of box, score and class."""
    nodes = [
        node("Conv", "images w", "a", strides=[8, 8]),
        node("Reshape", "a rows", "r"),
        node("Transpose", "r", "output0", perm=[0, 2, 1]),
    ]
    constants = {"w": np.zeros((6, 3, 8, 8), dtype=np.float32), "rows": np.array([1, 6, 64])}
    path = save(build(nodes, constants, shape=SHAPE), tmp_path / "model.onnx")

    with pytest.raises(ModelError, match=r"export raw predictions \(n, 7, anchors\)"):
        quantize(path, data, tmp_path / "int8.onnx")


def test_a_network_that_goes_blind_leaves_no_file(data, tmp_path):
    """The scores hang on a small channel beside a huge one: no 256 levels show both."""
    rng = np.random.default_rng(0)
    weight, bias = random_conv(rng, 64, 3, 8)
    weight[0], bias[0], bias[1:] = 0, 3e4, 0
    mix = random_conv(rng, 64, 64, 3)[0]
    mix[1:] = 0  # weight for the file's size, no effect
    last = np.zeros((7, 64, 1, 1), dtype=np.float32)
    last[4:, 1:] = 20
    nodes = [
        node("Conv", "images w b", "a", strides=[8, 8]),
        node("Conv", "a mix", "unused", pads=[1, 1, 1, 1]),
        node("Mul", "unused zero", "nothing"),
        node("Add", "a nothing", "sum"),
        node("Conv", "sum last", "logits"),
        node("Reshape", "logits rows", "r"),
        node("Add", "r shift", "shifted"),
        node("Sigmoid", "shifted", "output0"),
    ]
    constants = {"w": weight, "b": bias, "mix": mix, "last": last, "rows": np.array([1, 7, 64])}
    constants |= {"zero": np.float32(0), "shift": np.float32(-20)}
    path = save(build(nodes, constants, shape=SHAPE), tmp_path / "model.onnx")

    with pytest.raises(QuantizationError, match="finds nothing"):
        quantize(path, data, tmp_path / "int8.onnx", images=4)
    assert leftovers(tmp_path) == ["model.onnx"]


def test_a_convolution_that_cannot_run_in_int8_leaves_no_file(data, tmp_path):
    model = detector()
    box = next(one for one in model.graph.node if one.name == "box")
    box.input[1] = "computed"  # weights that depend on the image
    for one in (node("Mul", "box.weight brightest", "computed"), node("ReduceMax", "images", "brightest")):
        model.graph.node.insert(0, one)
    path = save(model, tmp_path / "model.onnx")

    with pytest.raises(QuantizationError, match="of 4 convolutions in int8, onnxruntime runs 3; in float: box"):
        quantize(path, data, tmp_path / "int8.onnx", images=2)
    assert leftovers(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_no_file(interruption, model, data, tmp_path, monkeypatch):
    def interrupt(*_):
        assert len(leftovers(tmp_path)) == 2  # the partial file is there
        raise interruption

    monkeypatch.setattr(quantizing, "check_scores", interrupt)

    with pytest.raises(interruption):
        quantize(model, data, tmp_path / "int8.onnx", images=2)
    assert leftovers(tmp_path) == ["model.onnx"]


def test_a_file_that_is_not_much_smaller_is_not_kept(model, data, tmp_path, monkeypatch):
    monkeypatch.setitem(MAX_SIZE_RATIO, "int8", 0.01)

    with pytest.raises(QuantizationError, match="of the float file's"):
        quantize(model, data, tmp_path / "int8.onnx", images=2)

    assert leftovers(tmp_path) == ["model.onnx"]


def test_a_name_that_no_other_verb_opens_is_refused(model, data, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        quantize(model, data, tmp_path / "int8", images=2)


def test_a_half_precision_file_is_refused(data, tmp_path):
    half = onnx.load(save(detector(), tmp_path / "half.onnx"))
    weight = half.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name))
    (tmp_path / "half.onnx").write_bytes(half.SerializeToString())

    with pytest.raises(ModelError, match="half"):
        quantize(tmp_path / "half.onnx", data, tmp_path / "int8.onnx", images=2)


def test_boxes_keep_every_value_and_scores_a_fixed_range():
    histogram = Histogram()
    histogram.add(np.append(np.random.default_rng(0).normal(0, 1, 100_000), 60.0).astype(np.float32))

    box, score = (range_for(use, histogram, X86) for use in (Use.BOX, Use.SCORE))

    assert box.high >= 60 and range_for(Use.VALUES, histogram, X86).high < 30
    assert score.low <= -7 and score.high >= 4
