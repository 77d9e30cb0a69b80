"""Predicting on pictures: what is written, in which pixels, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.tiny_onnx import NAMES, own_metadata, write_constant, write_detector
from visionlora.cli import main
from visionlora.errors import DataError, OutputError, UsageError
from visionlora.prediction import Prediction, predict
from visionlora.prediction.annotated import AnnotatedVideo
from visionlora.progress import Progress, progress_to
from visionlora.runtime import Frame
from visionlora.runtime.frames import find_images
from visionlora.vision.boxes import iou_matrix
from visionlora.vision.detections import Detections
from visionlora.vision.preprocess import read_image


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
    for name in ("a.jpg", "b.png"):  # the picture's own format and size
        assert (tmp_path / "out" / name).read_bytes()[:3] == (pictures / name).read_bytes()[:3]
        assert read_image(tmp_path / "out" / name).shape == (48, 64, 3)
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


def test_a_picture_that_cannot_be_read_is_told_the_others_are_predicted(pictures, exported, tmp_path, capsys) -> None:
    (pictures / "aa.png").write_bytes(b"broken")
    (pictures / "._b.png").write_bytes(b"hidden")
    code = main(["predict", "--model", str(exported.path), "--source", str(pictures), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 1 and "in 2 images" in said.out and "aa.png: expected an image" in said.err
    entries = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))["images"]
    assert [Path(entry["image"]).name for entry in entries] == ["a.jpg", "b.png"]
    result = predict(exported.path, pictures, tmp_path / "again")
    assert [path.name for path in result.images] == ["a.jpg", "b.png"] and len(result.problems) == 1


def test_where_no_picture_can_be_read_nothing_is_left(pictures, exported, tmp_path) -> None:
    (pictures / "c.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c\.png"):
        predict(exported.path, pictures / "c.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_camera_that_is_not_there_leaves_nothing(exported, tmp_path) -> None:
    with pytest.raises(DataError, match="expected one that can be opened"):
        predict(exported.path, "rtsp://127.0.0.1:9/none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_classes_iou_and_agnostic_are_heeded(pictures, tmp_path) -> None:
    model = write_detector(tmp_path / "a.onnx", properties={"visionlora": json.dumps(own_metadata())})
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    cv2.imencode(".png", noise)[1].tofile(pictures / "b.png")
    source, options = pictures / "b.png", {"conf": 0.1, "formats": ["json"]}

    def found(name, **more):
        return predict(model, source, tmp_path / name, **options, **more).detections[0]

    every = found("every")
    assert found("named", classes=["pit"]).boxes_xyxy.tolist() == every.of("pit").boxes_xyxy.tolist()
    assert set(found("ids", classes=["2", 0]).labels) == {"inclusion", "scratch"}
    assert 0 < len(found("iou", iou=0.1)) < len(every) < len(found("wide", iou=1))
    agnostic = found("agnostic", agnostic=True)
    overlaps = iou_matrix(agnostic.boxes_xyxy, agnostic.boxes_xyxy) - np.eye(len(agnostic))
    assert len(agnostic) < len(every) and overlaps.max() <= 0.7


def test_a_file_that_suppresses_by_itself_takes_no_iou(pictures, tmp_path) -> None:
    rows = np.array([[[10, 20, 30, 60, 0.9, 2]]])
    stock = {"names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]", "args": "{'nms': True}"}
    path = write_constant(tmp_path / "a.onnx", rows, stock, moving=np.array([[[1e-4, 0, 0, 0, 0, 0]]]))
    assert predict(path, pictures, tmp_path / "out").objects == 2
    for options in ({"iou": 0.5}, {"agnostic": True}):
        with pytest.raises(UsageError, match=r"a\.onnx: expected no --iou"):
            predict(path, pictures, tmp_path / "other", **options)


def test_csv_and_labels_hold_the_boxes(pictures, exported, tmp_path) -> None:
    result = predict(exported.path, pictures, tmp_path / "out", conf=0.001, formats=["csv", "labels"])
    rows = list(csv.DictReader((tmp_path / "out" / "detections.csv").open(encoding="utf-8", newline="")))
    assert [float(row["score"]) for row in rows] == [
        pytest.approx(score, abs=1e-4) for found in result.detections for score in found.scores.tolist()
    ]
    for path, found in zip(result.images, result.detections, strict=True):
        lines = np.loadtxt(tmp_path / "out" / "labels" / f"{path.stem}.txt", ndmin=2)
        np.testing.assert_array_equal(lines[:, 0], found.class_ids)
        centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
        np.testing.assert_allclose(lines[:, 1:3] * (64, 48), centres, atol=1e-3)
    with pytest.raises(OutputError, match=r"labels/a\.txt"):
        predict(exported.path, pictures, tmp_path / "out", formats=["labels"])
    (pictures / "a.png").write_bytes((pictures / "b.png").read_bytes())
    with pytest.raises(UsageError, match=r"would share labels/a\.txt"):
        predict(exported.path, pictures, tmp_path / "other", formats=["labels"])


def test_a_picture_without_objects_is_in_the_csv_too_and_formulas_are_text(pictures, tmp_path) -> None:
    card = {**own_metadata(), "names": ["=cmd", "@b", "c"]}
    model = write_detector(tmp_path / "a.onnx", properties={"visionlora": json.dumps(card)})
    (pictures / "a.jpg").rename(pictures / os.fsdecode(b"=caf\xe9.jpg"))
    predict(model, pictures / "=*", tmp_path / "out", conf=0.1, formats=["csv", "json", "images"])
    predict(model, pictures, tmp_path / "none", conf=1, formats=["csv"])
    text = (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")
    assert ",'=cmd," in text and "=caf\\xe9.jpg" in text
    assert "\\xe9.jpg" in json.loads((tmp_path / "out" / "detections.json").read_text("utf-8"))["images"][0]["image"]
    rows = list(csv.DictReader((tmp_path / "none" / "detections.csv").open(encoding="utf-8", newline="")))
    assert [row["name"] for row in rows] == ["", ""]


def test_an_annotated_video_is_as_long_as_its_source(video, exported, tmp_path) -> None:
    predict(exported.path, video, tmp_path / "out", formats=["json"], video=True)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "annotated.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (6, 10)
    assert capture.read()[1].shape == (48, 64, 3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"annotated.mp4", "detections.json"}


def test_an_annotated_video_keeps_the_times_of_its_frames(tmp_path) -> None:
    written = AnnotatedVideo(tmp_path, 10)
    for seconds in (5.0, 5.1, 5.5, 5.52, 6.0, 4000.0):
        written.add(np.full((48, 64, 3), 50, np.uint8), seconds)
    assert not (tmp_path / "annotated.mp4").exists()
    written.close()
    capture = cv2.VideoCapture(str(tmp_path / "annotated.mp4"))
    # 0.0, 0.1, still to 0.5, the next at once, still to 1.0, and five seconds of still for an hour
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 11 + 50 + 1
    assert [path.name for path in tmp_path.iterdir()] == ["annotated.mp4"]


def test_a_video_is_not_written_over_itself_and_not_of_pictures(pictures, video, exported, tmp_path) -> None:
    with pytest.raises(UsageError, match="expected a video or a camera"):
        predict(exported.path, pictures, tmp_path / "out", video=True)
    source = video.rename(tmp_path / "annotated.mp4")
    content = source.read_bytes()
    with pytest.raises(UsageError, match="is the source itself"):
        predict(exported.path, source, tmp_path, video=True, overwrite=True)
    assert source.read_bytes() == content


def test_a_damaged_video_is_told_at_the_end(video, exported, tmp_path) -> None:
    content = video.read_bytes()
    video.write_bytes(content[: content.rindex(b"\xff\xd8\xff") - 900])
    result = predict(exported.path, video, tmp_path / "out")
    assert 0 < result.frames < 6 and "ends after frame" in result.problems[0]


def test_a_result_is_short_in_a_console_and_escaped_in_a_notebook(tmp_path) -> None:
    found = Detections([[0, 0, 9, 9]] * 3, [0.9, 0.8, 0.7], [0, 1, 0], names=("<b>zebra", "rhino"))
    result = Prediction(tmp_path, found.names, (tmp_path / "<i>.png",), (found,), 1, 3, 1.0, ("x",))
    assert repr(found) == "Detections(3: 2 <b>zebra, 1 rhino)" and repr(found.above(1)) == "Detections(0)"
    assert repr(result).startswith("Prediction(3 objects in 1 images, 1 problems, '")
    for shown in (found._repr_html_(), result._repr_html_()):
        assert "&lt;b&gt;zebra" in shown and "<b>" not in shown and "<i>" not in shown
    frame = Frame(np.zeros((4, 6, 3), np.uint8), "a\x1b.png", 3, 0.5)
    assert repr(frame) == "Frame('a\\\\x1b.png', 3, 0.500 s, 6 x 4)" and frame._repr_png_()[1:4] == b"PNG"


@pytest.mark.parametrize("name", ["\ud83d", "a\x1b[31m\x00b", "\u202eabc", "Käfer 鋼 😀", "x" * 5000])
def test_any_text_can_be_drawn(name) -> None:
    canvas = np.zeros((48, 64, 3), np.uint8)
    assert Detections([[5, 5, 40, 40]], [0.9], [0], names=(name,)).draw(canvas).any()


def test_pictures_of_equal_names_do_not_replace_each_other(pictures, exported, tmp_path) -> None:
    (pictures / "deep").mkdir()
    (pictures / "deep" / "b.png").write_bytes((pictures / "b.png").read_bytes())
    predict(exported.path, pictures / "**" / "*.png", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"b.png", "b_2.png"}


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
        ({"formats": ["pdf"]}, "--formats: expected some of json, jsonl, coco, csv, labels, images, got pdf"),
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


def test_pictures_are_reported_one_by_one(pictures, exported, tmp_path) -> None:
    events: list[Progress] = []
    with progress_to(events.append):
        predict(exported.path, pictures, tmp_path / "out")
    assert events == [Progress("predict", done, 2, "", "image") for done in range(3)]


def test_tiles_find_what_is_small_in_the_whole_picture(exported, checkpoint, surface, tmp_path) -> None:
    """Four pictures beside each other are one, whose tiles are those pictures."""
    pictures = [cv2.imread(str(path)) for path in sorted((surface.parent / "images" / "val").iterdir())[:4]]
    cv2.imwrite(str(tmp_path / "sheet.png"), np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])]))
    for model in (exported.path, checkpoint):
        options = {"conf": 0.01, "imgsz": 96, "formats": ["json"]}
        (whole,) = predict(model, tmp_path / "sheet.png", tmp_path / model.stem, **options).detections
        out = tmp_path / f"{model.stem}-tiles"
        (tiled,) = predict(model, tmp_path / "sheet.png", out, tile=96, overlap=0.0, **options).detections
        alone = predict(model, surface.parent / "images" / "val", tmp_path / f"{model.stem}-alone", **options)
        best = max(float(found.scores.max(initial=0)) for found in alone.detections[:4])
        assert len(tiled) > len(whole) and abs(float(tiled.scores[0]) - max(best, float(whole.scores[0]))) < 1e-3


def test_tiles_of_a_classifier_are_refused(classifier, classified, tmp_path) -> None:
    with pytest.raises(UsageError, match="expected no --tile"):
        predict(classifier, classified / "val" / "red", tmp_path / "out", tile=96)
