"""Predicting on pictures: what is written, in which pixels, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.tiny_onnx import NAMES, own_metadata, write_detector
from visionlora.errors import DataError, OutputError, UsageError
from visionlora.prediction import predict
from visionlora.runtime.frames import find_images


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


def test_drawings_do_not_go_among_the_source_pictures(pictures, exported) -> None:
    before = sorted(pictures.iterdir())
    for source in (pictures, pictures / "*.png", pictures / "b.png"):
        with pytest.raises(UsageError, match="another folder than that of the source pictures"):
            predict(exported.path, source, pictures / ".." / pictures.name)
    with pytest.raises(UsageError, match="another folder"):
        predict(exported.path, pictures, pictures, watch=True, formats=["images"])
    assert sorted(pictures.iterdir()) == before
    predict(exported.path, pictures, pictures, formats=["json"])
    assert (pictures / "detections.json").is_file()


def test_coco_and_json_lines_hold_the_same_boxes(pictures, exported, tmp_path) -> None:
    found = predict(exported.path, pictures, tmp_path / "out", conf=0.001, formats=("coco", "jsonl"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "out" / "detections.coco.json")
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text("utf-8").splitlines()]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.coco.json", "detections.jsonl"}
    assert [image["file_name"] for image in coco.dataset["images"]] == ["a.jpg", "b.png"]
    assert [category["name"] for category in coco.dataset["categories"]] == list(found.names)
    assert found.frames == 2 and found.objects == len(coco.anns) == sum(len(line["detections"]) for line in lines) > 0
    for image_id, detections in enumerate(found.detections, start=1):
        boxes = np.array([annotation["bbox"] for annotation in coco.imgToAnns[image_id]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], detections.boxes_xyxy[:, 2:], atol=1e-3)
    assert set(lines[0]["milliseconds"]) == {"prepare", "network", "decode"}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path


def test_a_video_gives_an_entry_a_frame(video, exported, tmp_path) -> None:
    found = predict(exported.path, video, tmp_path / "out", conf=0.001, formats=("json", "images", "coco"))
    entries = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))["images"]
    assert found.frames == 6 and found.images == () and [entry["frame"] for entry in entries] == list(range(6))
    assert entries[2]["seconds"] == pytest.approx(0.2, abs=0.11) and entries[2]["image"] == str(video)
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    coco = json.loads((tmp_path / "out" / "detections.coco.json").read_text())
    assert drawn == {f"clip_avi_{number:06d}.png" for number in range(6)}
    assert drawn == {image["file_name"] for image in coco["images"]}


def test_a_watched_folder_is_written_line_by_line_until_sigterm(pictures, exported, tmp_path) -> None:
    lines = tmp_path / "out" / "detections.jsonl"
    command = ["predict", "--model", exported.path, "--source", pictures, "--out", tmp_path / "out", "--watch"]
    with subprocess.Popen([sys.executable, "-m", "visionlora.cli", *map(str, command)], stdout=subprocess.PIPE) as run:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") == 2):
            time.sleep(0.05)
        assert run.poll() is None and lines.read_bytes().count(b"\n") == 2  # before the end
        run.send_signal(signal.SIGTERM)
        printed = run.communicate(timeout=30)[0].decode()
    assert run.returncode == 0 and "in 2 images" in printed


def test_the_files_own_thresholds_hold_unless_another_is_asked_for(pictures, tmp_path) -> None:
    card = {**own_metadata(), "thresholds": [1, 1, 0.3]}
    model = write_detector(tmp_path / "a.onnx", properties={"visionlora": json.dumps(card)})
    (one, _) = predict(model, pictures, tmp_path / "one").detections
    (other, _) = predict(model, pictures, tmp_path / "other", conf=0.1).detections
    assert set(one.labels) == {"inclusion"} and set(other.labels) == set(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["pdf"]}, "expected some of json, jsonl, coco, images, got pdf"),
        ({"formats": []}, "got none"),
        ({"watch": True, "formats": ["json", "coco"]}, "json and coco can be written at the end alone"),
        ({"device": "warp"}, "but not warp"),
        ({"imgsz": 32}, "32 px were asked for"),
    ],
    ids=["unknown format", "no format", "no end", "unknown provider", "another size"],
)
def test_wrong_options_write_nothing(pictures, exported, tmp_path, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        predict(exported.path, pictures, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
