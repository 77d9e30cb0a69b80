"""Other formats: each gives torch's output in its own runtime, says what it is, and is judged and timed as any file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.turned import TURNED, write_detector
from visionlora.benchmarking import bench
from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.detectors.ultralytics.checkpoint import sample_pictures
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import ExportError, ModelError, OutputError, UsageError
from visionlora.exporting import ExportedModel, export, exporting
from visionlora.runtime import NcnnNetwork, OnnxNetwork, OpenVinoNetwork, open_exported
from visionlora.tasks import Classify
from visionlora.vision.inference import detect
from visionlora.vision.preprocess import read_image
from visionlora.workflows.evaluating import evaluate
from visionlora.workflows.inspecting import inspect

LIBRARIES = {"openvino": ("openvino",), "ncnn": ("ncnn", "pnnx"), "litert": ("ai_edge_litert", "litert_torch")}
NAMES = {"openvino": "model.xml", "ncnn": "model.param", "litert": "model.tflite"}


@pytest.fixture(scope="module", params=list(LIBRARIES))
def other(request, merged, tmp_path_factory) -> tuple[str, ExportedModel]:
    """Return each format's name and its file of the merged checkpoint."""
    for library in LIBRARIES[request.param]:
        pytest.importorskip(library)
    out = tmp_path_factory.mktemp(request.param) / NAMES[request.param]
    return request.param, export(merged.path, out, format=request.param)


def test_other_format_gives_the_onnx_files_output(other, exported) -> None:
    name, file = other
    batch = np.random.default_rng(0).random((2, 3, 96, 96), np.float32)
    # OpenVINO computes in bfloat16 where the processor can: what that does to scores is a claim of its own, below.
    network = OpenVinoNetwork(file.path, float32=True) if name == "openvino" else open_exported(file.path, name)
    (expected,), (found,) = OnnxNetwork(exported.path)(batch), network(batch)
    atol = {"ncnn": 2.0}.get(name, 0.1)  # ncnn may compute in half precision
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=atol)
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=0.03 if name == "ncnn" else 1e-3)
    assert file.box_error < 0.1 and file.score_error < 1e-3  # in float32
    with pytest.raises(UsageError, match=r"expected a batch \(n, 3, 96, 96\)"):
        network(batch[:, :, :32])


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_task_has_its_outputs_in_every_format(name, task, checkpoint, tmp_path) -> None:
    for library in LIBRARIES[name]:
        pytest.importorskip(library)
    base = write_detector(checkpoint, task, tmp_path / "base.pt")
    file = export(base, tmp_path / NAMES[name], format=name, imgsz=64)

    network = OpenVinoNetwork(file.path, float32=True) if name == "openvino" else open_exported(file.path, name)

    assert network.task == task and inspect(file.path).card["task"] == task.name
    batch, torch = np.random.default_rng(0).random((2, 3, 64, 64), np.float32), ULTRALYTICS.open(base, image_size=64)
    for found, expected in zip(network(batch), torch(batch), strict=True):
        np.testing.assert_allclose(found, expected, atol={"ncnn": 2.0}.get(name, 0.02))  # see above
    if task.outputs > 1:
        (one,), (other,) = (detect(each, [read_image(sample_pictures()[0])]) for each in (torch, network))
        assert len(one) == len(other) > 0
        assert all((one.masks.dense(i) != other.masks.dense(i)).mean() < 0.01 for i in range(len(one)))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_classifier_has_its_probabilities_in_every_format(name, classifier, tmp_path) -> None:
    for library in LIBRARIES[name]:
        pytest.importorskip(library)
    file = export(classifier, tmp_path / NAMES[name], format=name)
    expected = ULTRALYTICS.open(classifier)
    assert file.score_error < 1e-3

    network = open_exported(file.path, name)

    assert network.task == Classify() and network.names == expected.names
    batch = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    np.testing.assert_allclose(network(batch)[0], expected(batch)[0], atol=0.02)
    if name != "litert":  # its card lies inside
        described = file.path.with_suffix(".metadata.yaml")
        described.write_text(described.read_text().replace('"red",', '"red", "blue",'))
        with pytest.raises(ModelError, match="expected an output"):
            open_exported(file.path, name)


def test_what_openvino_computes_in_costs_no_accuracy_and_is_said(checkpoint, tmp_path) -> None:
    """On processors with AMX that is bfloat16; on others float32, where it holds trivially."""
    pytest.importorskip("openvino")
    data = write_dataset(draw_shapes, SHAPE_NAMES, tmp_path / "set", counts={"train": 1, "val": 100}, size=96, seed=3)
    onnx = export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    other = export(checkpoint, tmp_path / "base.xml", imgsz=96, format="openvino").path

    report = evaluate([onnx, other], data)

    first, second = report.rows
    assert first.scores.map50_95 > 0.2 and second.scores.map50_95 == pytest.approx(first.scores.map50_95, abs=0.002)
    assert second.precision in ("f32", "bf16", "f16")
    assert any("is computed in" in note for note in report.notes) == (second.precision != "f32")
    assert OpenVinoNetwork(other, float32=True).precision == "f32"
    (timed,) = bench([other], data=data, threads=[1], rounds=1).rows
    assert timed.precision == second.precision


def test_other_format_says_what_it_is(other, exported) -> None:
    name, file = other
    card, own = inspect(file.path).card, inspect(exported.path).card
    assert card["kind"] == name and card["parents"] == own["parents"]
    network = open_exported(file.path, name)
    assert (network.names, network.image_size, network.nms) == (file.names, 96, True)
    assert file.bytes == pytest.approx(exported.bytes, rel=0.2)


def test_other_format_is_judged_and_timed_beside_onnx(other, exported, surface) -> None:
    name, file = other
    rows = evaluate([exported.path, file.path], surface).rows
    assert rows[1].kind == name and rows[1].bytes == file.bytes
    assert rows[1].scores.map50 == pytest.approx(rows[0].scores.map50, abs=0.05)
    timed = bench([exported.path, file.path], data=surface, threads=[1], rounds=1).rows
    assert timed[1].runtime == name and timed[1].network.median > 0


def test_existing_file_beside_is_refused(other, merged) -> None:
    name, file = other
    with pytest.raises(OutputError, match="exists already"):
        export(merged.path, file.path, format=name)
    if name != "litert":
        file.path.with_name("second.metadata.yaml").touch()
        with pytest.raises(OutputError, match=r"second\.metadata\.yaml: exists already"):
            export(merged.path, file.path.with_name(f"second{file.path.suffix}"), format=name)


@pytest.mark.parametrize(("new", "old", "name"), [("a.xml", "a.param", "openvino"), ("a.param", "a.xml", "ncnn")])
def test_weights_of_another_format_are_not_replaced(new, old, name, merged, tmp_path) -> None:
    (tmp_path / old).touch()
    with pytest.raises(OutputError, match=rf"{new}: its weights .* those of .*{old}; choose another name"):
        export(merged.path, tmp_path / new, format=name, overwrite=True)


def test_models_in_one_folder_keep_their_own_classes(other, checkpoint) -> None:
    name, first = other
    second = export(checkpoint, first.path.with_stem("other"), format=name, imgsz=64)
    assert first.names != second.names
    for file in (first, second):
        network = open_exported(file.path, name)
        assert (network.names, network.image_size) == (file.names, file.image_size)
    assert not first.path.with_name("metadata.yaml").exists()


def test_wrong_conversion_leaves_no_file(merged, tmp_path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(exporting, "SCORE_TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="does not give torch's output"):
        export(merged.path, tmp_path / "a.xml", format="openvino")
    assert not list(tmp_path.iterdir())


def test_description_beside_is_what_ultralytics_reads(merged, tmp_path) -> None:
    pytest.importorskip("openvino")
    from ultralytics import YOLO

    folder = tmp_path / "model_openvino_model"
    export(merged.path, folder / "model.xml", format="openvino")
    assert yaml.safe_load((folder / "metadata.yaml").read_text())["imgsz"] == [96, 96]
    result = YOLO(folder, task="detect")(np.zeros((96, 96, 3), np.uint8), imgsz=96, verbose=False)[0]
    assert list(result.names.values()) == list(merged.names)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.engine", {"format": "tensorrt"}, "expected onnx, openvino, ncnn, litert, got 'tensorrt'"),
        ("a.onnx", {"format": "openvino"}, r"ends in \.xml"),
        ("a.xml", {}, r"ends in \.onnx, or --format openvino for this one"),
    ],
)
def test_unknown_formats_and_names_are_refused(merged, tmp_path, out, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        export(merged.path, tmp_path / out, **options)


@pytest.mark.parametrize(("name", "library"), [("openvino", "openvino"), ("ncnn", "pnnx"), ("litert", "litert_torch")])
def test_converter_that_is_missing_is_named(merged, tmp_path, monkeypatch, name, library) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        UsageError, match=rf"--format {name}: {library} is not installed; pip install '\.\[{name}\]' in a clone"
    ):
        export(merged.path, tmp_path / NAMES[name], format=name)


def test_broken_ncnn_file_is_refused(merged, tmp_path, monkeypatch) -> None:
    pytest.importorskip("pnnx")
    path = export(merged.path, tmp_path / "m.param", format="ncnn").path
    with pytest.raises(UsageError, match="threads: expected at least 1"):
        NcnnNetwork(path, threads=0)
    path.write_text("no graph")
    with pytest.raises(ModelError, match="ncnn cannot load it"):
        NcnnNetwork(path)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ModelError, match="pip install ncnn"):
        NcnnNetwork(path)


def test_litert_file_of_another_maker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"TFL3")
    with pytest.raises(ModelError, match="expected a LiteRT file that visionlora exported"):
        open_exported(tmp_path / "a.tflite", "litert")
