"""The demonstration: offline, on the CPU, the base fails and the adapter succeeds."""

from __future__ import annotations

import pytest

from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.errors import OutputError
from visionlora.workflows import demonstrating as run
from visionlora.workflows.inspecting import inspect


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """Return a demonstration cut down to one epoch on a few pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "COUNTS", {"train": 12, "val": 6})
        patch.setattr(run, "EPOCHS", 1)
        return run.demo(tmp_path_factory.mktemp("demo") / "demo")


def test_every_stage_leaves_its_file(small) -> None:
    kinds = {"adapter.safetensors": "adapter", "merged.pt": "merged", "model.onnx": "onnx", "model.int8.onnx": "int8"}
    assert {name: inspect(small.out / name).kind for name in kinds} == kinds
    left = {path.name for path in small.out.iterdir()}
    assert {"base.pt", "demo_pictures", "report.html", "report.json", "report.md", "report_detections.png"} <= left


def test_summary_says_that_the_base_is_a_toy_and_what_to_use(small) -> None:
    assert "toy" in small.summary and "--model yolo11n.pt" in small.summary


def test_earlier_demonstration_is_not_overwritten_unasked(small) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        run.demo(small.out)
    assert (small.out / "report.json").is_file()


@pytest.mark.parametrize("name", ["model.onnx", "adapter.safetensors", "report.md", "demo_pictures"])
def test_foreign_file_is_refused_before_anything_is_written(tmp_path, name) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match=name):
        run.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_the_base_fails_and_the_adapter_succeeds(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "COUNTS", {"train": 150, "val": 50})
    monkeypatch.setattr(run, "EPOCHS", 8)
    rows = {row.label: row for row in run.demo(tmp_path / "demo").adapted.report.rows}
    assert rows["base"].scores is None
    assert rows["adapter"].scores.map50_95 > 0.25
    assert abs(rows["onnx"].scores.map50_95 - rows["adapter"].scores.map50_95) < 0.001
    assert rows["adapter"].scores.map50_95 - rows["int8"].scores.map50_95 < 0.02
    assert rows["int8"].bytes < 0.3 * rows["onnx"].bytes


def test_only_pictures_that_a_demonstration_has_drawn_are_removed(tmp_path) -> None:
    pictures = tmp_path / "demo_pictures"
    data = write_dataset(draw_surface, SURFACE_NAMES, pictures, counts={"train": 2, "val": 1}, size=96, seed=0)
    (pictures / "labels" / "train.cache").write_bytes(b"")
    mine = pictures / "images" / "train" / "mine.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds images/train/mine\.jpg, which no demonstration has drawn"):
        run.clear_pictures(pictures)
    assert mine.exists() and data.exists()
    mine.unlink()
    run.clear_pictures(pictures)
    run.clear_pictures(pictures)
    assert not pictures.exists()
