"""Predicting on pictures: what is written, in which pixels, and what is refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from visionlora.errors import DataError, OutputError
from visionlora.prediction import find_images, predict


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "bilder ü"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imencode(name[1:], np.full((48, 64, 3), 128, np.uint8))[1].tofile(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_pictures_and_boxes_are_written(pictures, exported, tmp_path) -> None:
    result = predict(exported.path, pictures, tmp_path / "out", conf=0.0001)
    entries = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))["images"]
    assert [path.name for path in result.images] == ["a.jpg", "b.png"] and len(entries) == 2
    assert [len(entry["detections"]) for entry in entries] == [len(found) for found in result.detections]
    assert cv2.imread(str(tmp_path / "out" / "a_jpg.png")).shape == (480, 640, 3)
    boxes = np.concatenate([found.boxes_xyxy for found in result.detections])
    assert len(boxes) and (boxes >= 0).all() and (boxes[:, [0, 2]] <= 64).all() and (boxes[:, [1, 3]] <= 48).all()


def test_base_with_adapter_equals_its_export(pictures, exported, checkpoint, adapter, tmp_path) -> None:
    first = predict(f"{checkpoint}+{adapter}", pictures, tmp_path / "a", conf=0.01).detections
    second = predict(exported.path, pictures, tmp_path / "b", conf=0.01).detections
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-2)


@pytest.mark.parametrize("pattern", ["*.png", "b.*"])
def test_patterns_find_pictures(pictures, pattern) -> None:
    assert [path.name for path in find_images(pictures / pattern)] == ["b.png"]


def test_source_without_pictures_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="found no image"):
        find_images(tmp_path)


def test_broken_picture_leaves_nothing(pictures, exported, tmp_path) -> None:
    (pictures / "c.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c\.png"):
        predict(exported.path, pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_equal_names_do_not_replace_each_other(pictures, exported, tmp_path) -> None:
    (pictures / "deep").mkdir()
    (pictures / "deep" / "b.png").write_bytes((pictures / "b.png").read_bytes())
    predict(exported.path, pictures / "**" / "*.png", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"b_png.png", "b_png_2.png"}


def test_earlier_result_is_not_overwritten_unasked(pictures, exported, tmp_path) -> None:
    predict(exported.path, pictures, tmp_path / "out")
    with pytest.raises(OutputError, match="--overwrite"):
        predict(exported.path, pictures, tmp_path / "out")
