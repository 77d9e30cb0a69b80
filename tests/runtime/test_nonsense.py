"""Networks that compute nonsense, and files that say another form than they have: refused by name, never a score."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import visionlora as vl
from tests.tiny_onnx import NAMES, own_metadata, save, write_constant, write_detector
from visionlora.errors import ModelError
from visionlora.runtime import OnnxNetwork, open_exported
from visionlora.tasks import DETECT
from visionlora.vision.inference import check_predictions, detect, try_out

STOCK = {"task": "detect", "names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]"}
OWN = {"task": "detect", "visionlora": json.dumps(own_metadata())}
ROW = [10, 20, 30, 60, 0.9, 2]


def scaled(path, factor: float, offset: float = 0.0):
    """A detector whose output is the tiny one's times a factor, plus an offset."""
    model = onnx.load(write_detector(path))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], ["times"]))
    model.graph.node.append(helper.make_node("Add", ["times", "offset"], ["output0"]))
    for name, value in (("factor", factor), ("offset", offset)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("factor", "offset", "message"),
    [
        (float("nan"), 0, "values that are no numbers"),
        (1e38, 3e38, "values that are no numbers"),
        (0, 0, "gave zeros for every picture"),
        (0, 0.5, "the same for two different pictures"),
        (20, 0, r"expected scores in \[0, 1\], the network gave .* without the last sigmoid"),
        (1, -0.7, r"expected scores in \[0, 1\]"),
    ],
    ids=["nan", "infinite", "zero", "constant", "logits", "negative"],
)
def test_a_network_that_computes_nonsense_is_refused_by_whoever_opens_it(tmp_path, factor, offset, message):
    path = scaled(tmp_path / "bad.onnx", factor, offset)
    for opened in (lambda: vl.Detector(path), lambda: open_exported(path, "onnxruntime")):
        with pytest.raises(ModelError, match=rf"bad\.onnx: .*{message}"):
            opened()


def test_boxes_far_outside_of_any_picture_are_refused(tmp_path):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx"))
    (output,) = network(np.zeros((1, 3, 64, 64), np.float32))
    check_predictions(network, (output,))
    output[0, 2, 5] = 1e6
    with pytest.raises(ModelError, match=r"a\.onnx: expected boxes in pixels of a picture of 64"):
        check_predictions(network, (output,))


def test_what_a_network_gives_later_is_checked_too():
    class Turning:
        task, names, image_size, nms, path = DETECT, ("one",), 32, True, "turning.onnx"

        def __call__(self, batch, /):
            found = np.full((len(batch), 5, 21), 0.5, np.float32)
            found[:, 4] = batch.mean() / 4 + (batch[:, 0, 0, 0, None] == 1)
            return (found,)

    try_out(Turning())
    with pytest.raises(ModelError, match=r"turning\.onnx: expected scores"):
        detect(Turning(), [np.full((32, 32, 3), 255, np.uint8)])


ANCHORS = np.random.default_rng(0).uniform(0.01, 0.9, (1, 40, 6)) * [60, 60, 20, 20, 1, 1]


@pytest.mark.parametrize(
    ("rows", "properties", "message"),
    [
        (ANCHORS, {**STOCK, "names": "{0: 'a'}"}, "its metadata does not say so"),
        (ANCHORS, STOCK, "its metadata does not say so"),
        (np.where(np.arange(6) == 5, 0, ANCHORS), {**STOCK, "names": "{0: 'a'}"}, "its metadata does not say so"),
        (np.zeros((1, 9, 6)), STOCK, "its metadata does not say so"),
        (
            np.array([[ROW]]),
            {**STOCK, "end2end": "False", "args": "{'nms': False}"},
            r"\(n, 7, anchors\) for 3 classes",
        ),
        (np.array([[ROW]]), {**STOCK, "end2end": "False", "head": "RTDETRDecoder"}, r"\(n, 7, anchors\)"),
        (np.array([[ROW]]), {**STOCK, "end2end": "True", "head": "RTDETRDecoder"}, r"\(n, boxes, 6\)"),
        (np.zeros((1, 7, 64)), {**STOCK, "args": "{'nms': True}"}, r"\(n, boxes, 6\), as its metadata says"),
        (np.array([[ROW]]), OWN, r"\(n, 7, anchors\)"),
        (np.array([[ROW]]), {**STOCK, "args": "["}, "metadata is broken"),
    ],
    ids=[
        "yolov5",
        "two scores",
        "class 0",
        "empty",
        "raw stated",
        "rt-detr",
        "rt-detr end",
        "nms stated",
        "own",
        "args",
    ],
)
def test_six_columns_are_final_boxes_only_where_metadata_or_values_say_so(tmp_path, rows, properties, message):
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{message}"):
        OnnxNetwork(write_constant(tmp_path / "a.onnx", rows, properties))


@pytest.mark.parametrize("column", [4, 5], ids=["score", "class"])
def test_stated_final_boxes_are_verified_when_they_come(tmp_path, column):
    rows = np.array([[ROW, [0, 0, 8, 8, 0.4, 0]]])
    rows[0, 1, column] = 1.5
    network = OnnxNetwork(write_constant(tmp_path / "a.onnx", rows, {**STOCK, "end2end": "True"}))
    with pytest.raises(ModelError, match=r"a\.onnx: expected rows of a box"):
        network(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize(
    ("says", "cut"),
    [({"args": "{'nms': True}"}, 0.25), ({"args": "{'nms': True, 'conf': 0.1}"}, 0.1), ({"end2end": "True"}, None)],
    ids=["default", "stated", "end to end"],
)
def test_the_confidence_at_which_a_file_cuts_by_itself_is_told(tmp_path, says, cut):
    network = OnnxNetwork(write_constant(tmp_path / "a.onnx", np.array([[ROW]]), {**STOCK, **says}))
    assert network.cut == cut and network.nms is False
    assert OnnxNetwork(write_detector(tmp_path / "raw.onnx")).cut is None


def test_a_score_below_the_default_shows_that_a_file_cuts_lower(tmp_path):
    rows = np.array([[[*ROW[:4], 0.05, 1]]])
    network = OnnxNetwork(write_constant(tmp_path / "a.onnx", rows, {**STOCK, "args": "{'nms': True}"}))
    network(np.zeros((1, 3, 64, 64), np.float32))
    assert network.cut == pytest.approx(0.05)


def first_picture_alone(path, stated: dict[str, str]):
    """A graph that takes any number of pictures and works out the first `2` alone, as an unrolled suppression does."""
    nodes = [
        helper.make_node("Slice", ["images", "zero", "two", "zero"], ["some"]),
        helper.make_node("ReduceMean", ["some"], ["means"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["means", "column"], ["scores"]),
        helper.make_node("Concat", ["box", "scores", "class"], ["row"], axis=2),
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["count"]),
        helper.make_node("Sub", ["count", "two"], ["missing"]),
        helper.make_node("Concat", ["nothing", "missing", "nothing2"], ["pads"], axis=0),
        helper.make_node("Pad", ["row", "pads"], ["output0"]),
    ]
    constants = {
        "zero": [0], "one": [1], "two": [2], "column": [-1, 1, 1], "nothing": [0] * 3, "nothing2": [0] * 2,
    }  # fmt: skip
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.tile(np.float32([10, 20, 30, 60]), (2, 1, 1)), "box"))
    initializers.append(numpy_helper.from_array(np.ones((2, 1, 1), np.float32), "class"))
    graph = helper.make_graph(
        nodes,
        "unrolled",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 1, 6])],
        initializers,
    )
    return save(graph, path, {**STOCK, "args": "{'nms': True}", **stated})


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_file_gets_as_many_pictures_as_its_metadata_says(tmp_path, runtime, count):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    network = open_exported(first_picture_alone(tmp_path / "a.onnx", {"batch": "2"}), runtime)
    levels = np.linspace(0.3, 0.9, count, dtype=np.float32)
    (output,) = network(levels[:, None, None, None] * np.ones((1, 3, 64, 64), np.float32))
    assert network.batch == 2
    np.testing.assert_allclose(output[:, 5, 0], levels, rtol=0.01)


def test_a_foreign_file_that_leaves_the_batch_open_gets_one_picture_where_it_says_nothing(tmp_path):
    assert OnnxNetwork(write_detector(tmp_path / "a.onnx", batch="batch", properties=STOCK)).batch == 1
    assert OnnxNetwork(write_detector(tmp_path / "b.onnx", batch=4, properties={**STOCK, "batch": "1"})).batch == 4
