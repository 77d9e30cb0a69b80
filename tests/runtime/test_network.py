from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from tests.tiny_onnx import NAMES, own_metadata, write_constant, write_detector
from visionlora.errors import ModelError, UsageError
from visionlora.runtime import OnnxNetwork
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment
from visionlora.vision.inference import Network, detect
from visionlora.vision.rotated import regularized

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
STOCK = {"task": "detect", "names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]"}


def pictures(count: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, side, side), dtype=np.float32)


def own(**changes) -> dict[str, str]:
    return {"task": "detect", "visionlora": json.dumps({**own_metadata(), **changes})}


def test_an_exported_file_describes_itself(tmp_path):
    network: Network = OnnxNetwork(write_detector(tmp_path / "a.onnx"))
    assert network.names == NAMES and network.image_size == 64 and network.nms is True
    assert network.metadata == own_metadata()
    assert isinstance(network.session, onnxruntime.InferenceSession)


@pytest.mark.parametrize("nms", [True, False])
def test_the_metadata_says_whether_nms_is_needed(tmp_path, nms):
    assert OnnxNetwork(write_detector(tmp_path / "a.onnx", properties=own(nms=nms))).nms is nms


def test_the_output_is_that_of_onnxruntime(tmp_path):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx"), threads=1)
    batch = pictures(1)
    (output,) = network(batch)
    assert output.shape == (1, 4 + len(NAMES), 64) and output.dtype == np.float32
    np.testing.assert_array_equal(output, network.session.run(None, {"images": batch})[0])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 2, 4, "batch"])
def test_any_number_of_pictures_goes_through_any_file(tmp_path, batch, count):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx", batch=batch, properties={**STOCK}))
    single = OnnxNetwork(write_detector(tmp_path / "single.onnx"))
    expected = np.concatenate([single(one[None])[0] for one in pictures(count)])
    np.testing.assert_allclose(network(pictures(count))[0], expected, rtol=1e-5)


def test_a_picture_in_another_memory_order_gives_the_same(tmp_path):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx"))
    strided = np.asfortranarray(pictures(1)).astype(np.float64)
    np.testing.assert_array_equal(network(strided)[0], network(pictures(1))[0])


def test_a_quantized_file_runs_like_its_float_file(tmp_path):
    class Calibration(CalibrationDataReader):
        batches = iter([{"images": pictures(1)}])

        def get_next(self):
            return next(self.batches, None)

    path = write_detector(tmp_path / "float.onnx")
    quantize_static(path, tmp_path / "int8.onnx", Calibration(), QuantFormat.QDQ, ["Conv"], per_channel=True)
    network = OnnxNetwork(tmp_path / "int8.onnx")
    assert network.metadata == own_metadata() and network.names == NAMES
    difference = np.abs(network(pictures(1))[0] - OnnxNetwork(path)(pictures(1))[0])[0]
    assert 0 < difference[:4].max() < 3 and 0 < difference[4:].max() < 0.05


def test_a_stock_file_describes_itself(tmp_path):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx", batch="batch", properties=STOCK))
    assert network.names == NAMES and network.image_size == 64 and network.nms is True and network.metadata is None


def test_final_detections_become_scores_of_each_class(tmp_path):
    rows = np.array([[[10, 20, 30, 60, 0.9, 2], [0, 0, 8, 8, 0.4, 0], [0, 0, 0, 0, 0, 0]]])
    network = OnnxNetwork(write_constant(tmp_path / "end.onnx", rows, STOCK))
    expected = [[20, 4, 0], [40, 4, 0], [20, 8, 0], [40, 8, 0], [0, 0.4, 0], [0, 0, 0], [0.9, 0, 0]]
    assert network.nms is False
    np.testing.assert_allclose(network(pictures(1))[0][0], expected, rtol=1e-6)
    (found,) = detect(network, [np.zeros((64, 64, 3), dtype=np.uint8)], confidence=0.1)
    np.testing.assert_allclose(found.boxes_xyxy, rows[0, :2, :4])
    assert found.class_ids.tolist() == [2, 0]


def test_a_class_id_without_a_name_is_refused(tmp_path):
    path = write_constant(tmp_path / "end.onnx", np.array([[[0, 0, 8, 8, 0.9, 3]]]), {**STOCK, "end2end": "True"})
    network = OnnxNetwork(path)
    with pytest.raises(ModelError, match="class id 3"):
        network(pictures(1))


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        pytest.param({**STOCK, "task": "segment"}, "task 'segment'", id="another task"),
        pytest.param({"task": "detect"}, "expected class names", id="no names"),
        pytest.param({**STOCK, "names": "{0: 'a'"}, "expected class names", id="broken names"),
        pytest.param({**STOCK, "names": "{1: 'a'}"}, "expected class names", id="names that do not start at 0"),
        pytest.param({**STOCK, "names": "{0: 'a'}"}, r"expected an output \(n, 5, anchors\)", id="too few names"),
        pytest.param({"visionlora": "{"}, "metadata is broken", id="broken metadata"),
        pytest.param({"visionlora": "[]"}, "metadata is broken", id="metadata of another type"),
        pytest.param({"visionlora": "{}"}, "metadata is broken", id="empty metadata"),
        pytest.param(own(names="abc"), "metadata is broken", id="names of a wrong type"),
        pytest.param(own(format=2), "expected format 1, got 2", id="a newer format"),
        pytest.param(own(preprocessing={"image_size": 64}), "expected the preprocessing", id="other preprocessing"),
        pytest.param(
            {"visionlora": json.dumps(own_metadata(image_size=32))}, "64 pixels, its metadata says 32", id="other size"
        ),
    ],
)
def test_a_file_with_wrong_metadata_is_refused_by_name(tmp_path, properties, message):
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{message}"):
        OnnxNetwork(write_detector(tmp_path / "a.onnx", properties=properties))


@pytest.mark.parametrize(
    ("imgsz", "message"), [("[64, 32]", "expected a square input"), (None, "says the size of the input")]
)
def test_a_dynamic_file_needs_a_square_size(tmp_path, imgsz, message):
    properties = {key: value for key, value in {**STOCK, "imgsz": imgsz}.items() if value}
    with pytest.raises(ModelError, match=message):
        OnnxNetwork(write_detector(tmp_path / "a.onnx", batch="batch", properties=properties))


@pytest.mark.parametrize("shape", [(1, 7), (1, 8, 20)], ids=["two dimensions", "rows for another number of classes"])
def test_an_output_of_another_shape_is_refused(tmp_path, shape):
    with pytest.raises(ModelError, match="expected an output"):
        OnnxNetwork(write_constant(tmp_path / "a.onnx", np.zeros(shape), STOCK))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" * 50], ids=["empty", "text", "noise"])
def test_a_broken_file_is_refused_by_name_on_one_line(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx: expected an ONNX file") as caught:
        OnnxNetwork(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


def test_a_truncated_and_a_missing_file_are_refused_by_name(tmp_path):
    data = write_detector(tmp_path / "a.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    for name in ("cut.onnx", "absent.onnx"):
        with pytest.raises(ModelError, match=f"{name}: expected an ONNX file"):
            OnnxNetwork(tmp_path / name)


def test_wrong_arguments_are_refused(tmp_path):
    path = write_detector(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="threads: expected at least 1"):
        OnnxNetwork(path, threads=0)
    with pytest.raises(UsageError, match=r"expected a batch \(n, 3, 64, 64\)"):
        OnnxNetwork(path)(pictures(1, side=32))
    with pytest.raises(UsageError, match="expected a batch"):
        OnnxNetwork(path)(pictures(0))


def test_threads_are_heeded(tmp_path):
    network = OnnxNetwork(write_detector(tmp_path / "a.onnx"), threads=1)
    assert network.session.get_session_options().intra_op_num_threads == 1


def test_importing_the_runtime_loads_neither_torch_nor_ultralytics():
    code = "import sys, visionlora.runtime; print(sorted({'torch', 'ultralytics', 'onnx'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def enliven(model: torch.nn.Module) -> None:
    """Give random weights predictions that differ: freshly initialised, every score of a YOLO is the same."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # take over the statistics of the one batch below
    for name, parameter in model.named_parameters():
        if "cv3." in name and name.endswith(".2.bias"):
            torch.nn.init.zeros_(parameter)  # scores around 0.5 instead of 0.00001
    with torch.no_grad():
        model.train()(torch.from_numpy(pictures(8)))
    model.eval()


@pytest.fixture(scope="module")
def stock_export(tmp_path_factory):
    """Export an Ultralytics architecture with random weights: (path, the torch model, batch to compare on)."""
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("stock")

    def export(architecture: str, **options) -> tuple[Path, torch.nn.Module]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)  # the file is written to the working directory
            torch.manual_seed(0)
            model = YOLO(architecture)
            enliven(model.model)
            path = Path(model.export(format="onnx", imgsz=64, simplify=False, verbose=False, **options))
            return folder / path, model.model

    return export


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        pytest.param("yolov8n.yaml", {}, id="YOLOv8"),
        pytest.param("yolo11n.yaml", {"dynamic": True}, id="YOLO11, dynamic"),
        pytest.param("yolo26n.yaml", {}, id="YOLO26, the head that needs NMS"),
    ],
)
def test_a_stock_export_gives_the_predictions_of_torch(stock_export, architecture, options):
    path, model = stock_export(architecture, **options)
    network = OnnxNetwork(path)
    assert network.nms is True and network.image_size == 64 and len(network.names) == 80
    model.end2end = False
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures(2)))[0].numpy()
    (output,) = network(pictures(2))
    assert expected[:, 4:].std() > 0.02
    np.testing.assert_allclose(output[:, :4], expected[:, :4], atol=5e-3)  # pixels
    np.testing.assert_allclose(output[:, 4:], expected[:, 4:], atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_stock_end_to_end_export_gives_the_detections_of_torch(stock_export, dynamic):
    path, model = stock_export("yolo26n.yaml", nms=False, dynamic=dynamic)
    network = OnnxNetwork(path)
    assert network.nms is False
    model.end2end = True
    with torch.no_grad():
        rows = model(torch.from_numpy(pictures(1)))[0][0].numpy()  # (boxes, 6), best first
    found = DETECT.decode([network(pictures(1))[0][0]], nms=False, confidence=0)
    gaps = -np.diff(rows[:, 4], prepend=2, append=-1)
    clear = (gaps[:-1] > 1e-5) & (gaps[1:] > 1e-5)  # their rank is no accident of rounding
    assert len(found) == len(rows) and clear.sum() > 5
    np.testing.assert_allclose(found.scores, rows[:, 4], atol=1e-4)
    np.testing.assert_allclose(found.boxes_xyxy[clear], rows[clear, :4], atol=5e-3)
    np.testing.assert_array_equal(found.class_ids[clear], rows[clear, 5])


def test_a_stock_export_with_nms_inside_is_read_as_final_detections(stock_export):
    network = OnnxNetwork(stock_export("yolo11n.yaml", nms=True, conf=1e-6)[0])
    (prediction,) = network(pictures(1))
    assert network.nms is False and prediction.shape == (1, 84, 300)
    assert ((prediction[0, 4:] > 0).sum(axis=0) <= 1).all() and (prediction[0, 4:] > 0).any()


def test_a_stock_export_of_keypoints_gives_the_predictions_of_torch(stock_export):
    path, model = stock_export("yolo11n-pose.yaml")
    network = OnnxNetwork(path)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures(2)))[0].numpy()
    (output,) = network(pictures(2))

    assert (network.task, network.nms) == (Pose(17, 3), True)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize(
    ("architecture", "task"), [("yolo26n-seg.yaml", Segment(32)), ("yolo26n-obb.yaml", OrientedBoxes())]
)
def test_a_stock_end_to_end_export_of_another_task_gives_the_detections_of_torch(stock_export, architecture, task):
    path, model = stock_export(architecture, nms=False)
    network = OnnxNetwork(path)
    model.end2end = True
    with torch.no_grad():
        given = model(torch.from_numpy(pictures(1)))[0]
    rows, *prototypes = (each[0].numpy() for each in (given if isinstance(given, tuple) else (given,)))
    outputs = network(pictures(1))
    found = task.decode([each[0] for each in outputs], nms=False, confidence=0)
    gaps = -np.diff(rows[:, 4], prepend=2, append=-1)
    clear = (gaps[:-1] > 1e-5) & (gaps[1:] > 1e-5)

    assert (network.task, network.nms) == (task, False) and clear.sum() > 3
    np.testing.assert_array_equal(found.class_ids[clear], rows[clear, 5])
    if prototypes:
        np.testing.assert_allclose(outputs[1][0], prototypes[0], atol=1e-3)
        np.testing.assert_allclose(found.masks.coefficients[clear], rows[clear, 6:], atol=1e-3)
    else:
        boxes = regularized(np.concatenate([rows[clear, :4], rows[clear, 6:]], axis=1))
        np.testing.assert_allclose(found.obb[clear], boxes, atol=5e-3)


def test_a_stock_export_of_a_task_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ModelError, match="one of task 'sort'"):
        OnnxNetwork(write_detector(tmp_path / "a.onnx", properties={**STOCK, "task": "sort"}))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_file_whose_name_is_no_unicode_is_opened(tmp_path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    path.write_bytes(write_detector(tmp_path / "model.onnx").read_bytes())
    assert OnnxNetwork(path).names == OnnxNetwork(tmp_path / "model.onnx").names
