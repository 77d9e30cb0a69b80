"""Exporting: the graph gives torch's output, says what it is, and a wrong one leaves no file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from ultralytics import YOLO

from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import ExportError, OutputError, UsageError
from visionlora.exporting import export, exporting
from visionlora.runtime import OnnxNetwork


def test_exported_graph_gives_the_checkpoints_output(exported, merged) -> None:
    images = torch.rand(2, 3, 96, 96).numpy()
    (got,), (expected,) = OnnxNetwork(exported.path)(images), ULTRALYTICS.open(merged.path)(images)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_exported_graph_keeps_the_contract(exported, merged) -> None:
    graph = onnx.load(exported.path).graph
    shape = [dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim]
    assert ([graph.input[0].name], graph.output[0].name, shape) == (["images"], "output0", [1, 10, 189])
    network = OnnxNetwork(exported.path)
    assert network.names == merged.names and network.image_size == 96 and network.nms
    assert network.metadata["parents"].keys() == {"checkpoint", "base", "adapter"}


def test_batch_normalization_and_shape_arithmetic_are_folded_away(exported) -> None:
    operators = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert not operators & {"BatchNormalization", "Shape", "Gather"}


def test_ultralytics_reads_the_exported_file(exported, merged) -> None:
    result = YOLO(exported.path, task="detect")(np.zeros((96, 96, 3), np.uint8), imgsz=96, verbose=False)[0]
    assert list(result.names.values()) == list(merged.names)


def test_another_image_size_is_exported_on_request(merged, tmp_path) -> None:
    assert OnnxNetwork(export(merged.path, tmp_path / "a.onnx", imgsz=64).path).image_size == 64


def test_wrong_graph_leaves_no_file(merged, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "SCORE_TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="does not give torch's output"):
        export(merged.path, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_open_is_called_by_its_own_name(merged, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "_write", lambda made, *_, **__: made.write_bytes(b"no graph"))
    with pytest.raises(ExportError) as refused:
        export(merged.path, tmp_path / "a.onnx")
    assert str(refused.value).startswith(f"{tmp_path / 'a.onnx'}: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 100}, "--imgsz: expected a multiple of 32"),
        ({"imgsz": 0}, "multiple of 32"),
        ({"opset": 5}, "--opset: expected 13 to 20, got 5"),
    ],
)
def test_options_out_of_range_are_refused(merged, tmp_path, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        export(merged.path, tmp_path / "a.onnx", **options)


def test_existing_file_is_refused(merged, exported) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export(merged.path, exported.path)
