"""Our ruler against Ultralytics' own validator, on a trained detector and a data set that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics import YOLO

from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.exporting import export
from visionlora.workflows.evaluating import evaluate


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    return write_dataset(draw_shapes, SHAPE_NAMES, folder, counts={"train": 1, "val": 80}, size=160, seed=7)


@pytest.mark.slow
def test_scores_agree_with_ultralytics_and_across_formats(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    exported = export(checkpoint, tmp_path / "model.onnx", imgsz=160)
    torch_row, onnx_row = evaluate([checkpoint, exported.path], shapes, imgsz=160).rows
    box = (
        YOLO(checkpoint)
        .val(data=str(shapes), imgsz=160, rect=False, device="cpu", plots=False, verbose=False, project=str(tmp_path))
        .box
    )
    assert torch_row.scores.map50_95 > 0.3
    assert abs(torch_row.scores.map50_95 - box.map) < 0.005
    assert abs(torch_row.scores.map50 - box.map50) < 0.005
    assert abs(torch_row.scores.map50_95 - onnx_row.scores.map50_95) < 0.001
