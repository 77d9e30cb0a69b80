"""A new task is one value: squares, written here, are opened, detected, judged, drawn and compared like boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import onnx
import pytest

import visionlora as vl
from tests.quantization.graphs import build, node, random_conv, silu
from tests.tiny_onnx import NAMES, own_metadata, save, write_constant, write_detector
from visionlora.errors import ModelError, UsageError
from visionlora.patching.selftest import self_test
from visionlora.quantization.checks import check_scores
from visionlora.quantization.sensitivity import prediction_error
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import coco_scores, find_objects, load_split
from visionlora.tasks import DETECT, TASKS, OfBoxes
from visionlora.tasks.label_lines import check_fraction, clip_box
from visionlora.tasks.task import best_candidates, difference
from visionlora.vision.detections import Detections
from visionlora.vision.inference import detect
from visionlora.vision.preprocess import Placement, letterbox

SIDE = 64  # of the network's input
SQUARES = np.array(
    [[16, 20, 12], [40, 44, 20], [50, 12, 8]], dtype=np.float32
)  # centre x, centre y, side; in its pixels
CLASS_IDS = (0, 1, 1)
HEAD_SHAPES = {"flat": (1, 48, -1), "split": (1, 3, 16, -1), "numbers": (1, 3, -1)}
DOT = (1, 2, 253)


@dataclass(frozen=True)
class Squares(OfBoxes):
    """Squares: centre x, centre y, side, then the scores of the classes."""

    name: ClassVar[str] = "square"
    iou_type: ClassVar[str] = "bbox"
    noun: ClassVar[str] = "squares"
    similarity: ClassVar[str] = "IoU"
    truth: ClassVar[str] = ""
    binned: ClassVar[int] = 3
    outputs: ClassVar[int] = 1
    final_columns: ClassVar[int] = 5

    def settings(self) -> dict[str, int]:
        return {}

    def rows(self, classes: int) -> int:
        return 3 + classes

    def split(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        return outputs[0][..., :3, :], outputs[0][..., 3:, :]

    def split_final(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (x, y, side), scores, class_ids = np.moveaxis(rows[..., :3], -1, 0), rows[..., 3], rows[..., 4]
        return np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=-1), scores, class_ids

    def rows_of(self, class_ids: Sequence[int], *, classes: int) -> list[int]:
        return [0, 1, 2, *(3 + class_id for class_id in class_ids)]

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        *,
        nms: bool,
        confidence: float | Sequence[float] = 0.25,
        iou_threshold: float = 0.7,
        max_detections: int = 300,
        agnostic: bool = False,
        placement: Placement | None = None,
    ) -> Detections:
        squares, scores = self.split(outputs)
        scores, class_ids, anchors = best_candidates(scores, confidence, max_detections)
        x, y, side = squares[:, anchors]
        boxes = np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=1)
        boxes = boxes if placement is None else placement.to_original(boxes)
        return Detections(boxes, scores, class_ids, painter=self.draw)

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        boxes = found.boxes_xyxy / (size_wh * 2)
        return np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]]).tolist()

    def encode(self, geometry: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, *, classes: int) -> np.ndarray:
        left, top, right, bottom = np.moveaxis(geometry, -1, 0)
        by_class = np.zeros((*scores.shape, classes), dtype=np.float32)
        np.put_along_axis(by_class, class_ids[..., None], scores[..., None], axis=-1)
        rows = [(left + right) / 2, (top + bottom) / 2, right - left, *np.moveaxis(by_class, -1, 0)]
        return np.stack(rows, axis=1).astype(np.float32)

    def overlap(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
        return (np.minimum(a[0][2], b[0][2]) / np.maximum(a[0][2], b[0][2])).astype(np.float64)

    def draw(
        self,
        canvas: np.ndarray,
        objects: Any,
        labels: Sequence[str],
        colours: Sequence[Any],
        *,
        scale: float = 1.0,
        offset_xy: tuple[int, int] = (0, 0),
    ) -> None:
        for left, top, right, bottom in objects.boxes_xyxy * scale + offset_xy * 2:
            cv2.circle(canvas, (round((left + right) / 2), round((top + bottom) / 2)), 3, DOT, cv2.FILLED)

    def coco_fields(self, objects: Any) -> dict[str, np.ndarray]:
        return DETECT.coco_fields(objects)

    def check_columns(self, columns: int, most: int) -> None:
        if columns != 4:
            raise ValueError(f"expected 4 columns (class, x, y, side), got {columns}")

    def label_box(self, values: Sequence[float]) -> np.ndarray:
        x, y, side = values
        check_fraction("x", x)
        check_fraction("y", y)
        return clip_box(np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2]))

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        return {}


@pytest.fixture
def task(monkeypatch) -> Squares:
    monkeypatch.setitem(TASKS, "square", Squares())
    return TASKS["square"]


def write_squares(path: Path, *, on_card: bool = False, score: float = 0.9) -> Path:
    """A file that finds `SQUARES` in every picture, with scores that depend on it a little."""
    output = np.zeros((1, 3 + len(NAMES), 3), dtype=np.float32)
    output[0, :3] = SQUARES.T
    output[0, [3 + class_id for class_id in CLASS_IDS], range(3)] = score
    moving = np.where(output[0, :, :, None] == np.float32(score), 1e-6, 0)[None, ..., 0]
    card = {**own_metadata(image_size=SIDE), **({"task": "square"} if on_card else {})}
    properties = {"visionlora": json.dumps(card), **({} if on_card else {"task": "square"})}
    return write_constant(path, output, properties, moving=moving)


def write_network(path: Path, *, bins: int = 16, width: int = 64) -> Path:
    """A float file whose head gives each number of a square as logits over bins."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (width, 3, 8), "mix": (width, width, 3), "square": (3 * bins, width, 1), "score": (3, width, 1)}
    constants = {f"{name}.shape": np.array(shape) for name, shape in HEAD_SHAPES.items()}
    constants |= {"bins": np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1), "unit": np.float32([4])}
    for name, shape in shapes.items():
        constants[f"{name}.weight"], constants[f"{name}.bias"] = random_conv(rng, *shape, 2.0)
    nodes = [
        node("Conv", "images stem.weight stem.bias", "stem", strides=[8, 8]),
        *silu("stem", "stem.out"),
        node("Conv", "stem.out mix.weight mix.bias", "mix", pads=[1, 1, 1, 1]),
        *silu("mix", "mix.out"),
        node("Conv", "mix.out square.weight square.bias", "square"),
        node("Conv", "mix.out score.weight score.bias", "score"),
        node("Reshape", "square flat.shape", "flat"),
        node("Reshape", "flat split.shape", "split"),
        node("Transpose", "split", "turned", perm=[0, 2, 1, 3]),
        node("Softmax", "turned", "shares", axis=1),
        node("Conv", "shares bins", "mean"),
        node("Reshape", "mean numbers.shape", "numbers"),
        node("Mul", "numbers unit", "squares"),
        node("Reshape", "score numbers.shape", "logits"),
        node("Sigmoid", "logits", "scores"),
        node("Concat", "squares scores", "output0", axis=1),
    ]
    model = build(nodes, constants, shape=(1, 3, SIDE, SIDE))
    card = {**own_metadata(image_size=SIDE), "task": "square"}
    return save(model.graph, path, {"visionlora": json.dumps(card)})


def dots_in(picture: np.ndarray) -> int:
    return cv2.connectedComponents((picture == DOT).all(axis=2).astype(np.uint8))[0] - 1


@pytest.fixture
def data(tmp_path) -> Path:
    """A picture of twice the network's side with a label of each square, once for every split."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"images/{split}/a.png"), np.full((2 * SIDE, 2 * SIDE, 3), 90, dtype=np.uint8))
        rows = zip(CLASS_IDS, (SQUARES / SIDE).tolist(), strict=True)
        lines = [f"{class_id} {x} {y} {side}\n" for class_id, (x, y, side) in rows]
        (tmp_path / f"labels/{split}/a.txt").write_text("".join(lines))
    path = tmp_path / "data.yaml"
    path.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {list(NAMES)}\n")
    return path


@pytest.mark.parametrize("on_card", [False, True], ids=["metadata", "card"])
def test_a_file_says_its_task_and_is_refused_where_nobody_knows_it(tmp_path, monkeypatch, on_card) -> None:
    path = write_squares(tmp_path / "a.onnx", on_card=on_card)
    with pytest.raises(ModelError, match=r"a\.onnx: expected a model of task detect or .* classify, got .* 'square'"):
        OnnxNetwork(path)
    monkeypatch.setitem(TASKS, "square", Squares())

    assert OnnxNetwork(path).task == Squares()
    with pytest.raises(ModelError, match=r"the runner's self-test fails.*a task of segment, .* it is of 'square'"):
        vl.bundle(path, tmp_path / "line.zip")


def test_squares_are_found_in_pixels_of_the_picture_and_drawn(tmp_path, task) -> None:
    detector = vl.Detector(write_squares(tmp_path / "a.onnx"))
    picture = np.full((2 * SIDE, 2 * SIDE, 3), 90, dtype=np.uint8)
    found = detector.predict(picture)
    (same,) = detect(detector.network, [picture])

    order = np.argsort(found.boxes_xyxy[:, 0])
    expected = 2 * np.concatenate([SQUARES[:, :2] - SQUARES[:, 2:] / 2, SQUARES[:, :2] + SQUARES[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(found.boxes_xyxy[order], expected[np.argsort(expected[:, 0])])
    assert sorted(found.labels) == ["pit", "pit", "scratch"]
    np.testing.assert_array_equal(same.boxes_xyxy, found.boxes_xyxy)
    assert dots_in(found.draw(picture)) == dots_in(same.draw(picture)) == 3


def test_finished_squares_are_told_from_raw_ones(tmp_path, task) -> None:
    rows = [
        [*square, 0.9 - index / 10, class_id]
        for index, (square, class_id) in enumerate(zip(SQUARES.tolist(), CLASS_IDS, strict=True))
    ]
    properties = {"task": "square", "names": str(dict(enumerate(NAMES))), "imgsz": str([SIDE, SIDE])}
    moving = np.zeros((1, 3, 5), dtype=np.float32)
    moving[..., 3] = 1e-6
    network = OnnxNetwork(write_constant(tmp_path / "a.onnx", np.array([rows]), properties, moving=moving))
    (found,) = detect(network, [np.full((SIDE, SIDE, 3), 90, dtype=np.uint8)])

    assert not network.nms and found.class_ids.tolist() == list(CLASS_IDS)
    np.testing.assert_allclose(found.boxes_xyxy[:, 2] - found.boxes_xyxy[:, 0], SQUARES[:, 2], atol=1e-5)


def test_squares_are_scored_against_their_labels(tmp_path, data, task) -> None:
    network = OnnxNetwork(write_squares(tmp_path / "a.onnx"))
    split = load_split(data, task=task)
    (image,) = split.images
    pits = replace(image, class_ids=np.zeros(2, np.int64), boxes_xyxy=image.boxes_xyxy[1:])

    for images, names in ((split.images, split.names), ([pits], ("pit",))):  # also one class of three
        found = find_objects(network, images, names)
        scores = coco_scores(found.detections, images, names, classes=found.classes, task=found.task)
        assert scores.map50_95 == pytest.approx(1)


def test_a_report_judges_files_of_squares(tmp_path, data, task) -> None:
    files = [write_squares(tmp_path / "a.onnx"), write_squares(tmp_path / "b.onnx", score=0.7)]
    report = vl.evaluate(files, data, out=tmp_path / "report", html=True)

    assert [row.scores.map50_95 for row in report.rows] == pytest.approx([1, 1])
    assert (tmp_path / "report" / "report.html").is_file()
    assert dots_in(cv2.imread(str(tmp_path / "report" / "report_detections.png"))) == 3 * 3  # labels, and both files


def test_files_of_two_tasks_are_refused_together(tmp_path, data, task) -> None:
    boxes = write_detector(tmp_path / "boxes.onnx")
    with pytest.raises(UsageError, match=r"one task, got a\.onnx square, boxes\.onnx detect; judge those of each"):
        vl.evaluate([write_squares(tmp_path / "a.onnx"), boxes], data)


def test_predictions_of_squares_are_checked_and_compared(tmp_path, task) -> None:
    path = write_squares(tmp_path / "a.onnx")
    one, other = OnnxNetwork(path), OnnxNetwork(write_squares(tmp_path / "b.onnx", score=0.7))
    picture = np.full((1, 3, SIDE, SIDE), 0.5, dtype=np.float32)

    self_test(path, NAMES)
    check_scores(one, other, [picture])
    a, b = one(picture), other(picture)
    assert difference(task, a, b) == (0, pytest.approx(0.2))
    assert prediction_error(task, [a], [b])[:2] == pytest.approx([0.04, 0.04], abs=1e-5)


def test_squares_become_int8_but_for_the_tail_of_their_task(tmp_path, data, task) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    cv2.imwrite(str(data.parent / "images/train/a.png"), noise)
    made = vl.quantize(write_network(tmp_path / "a.onnx"), data, tmp_path / "a.int8.onnx", images=1, weights="int7")
    one, other = OnnxNetwork(tmp_path / "a.onnx"), OnnxNetwork(made.path)
    picture = letterbox(noise, SIDE)[0][None]  # calibrated on: the ranges hold it

    assert other.task == task and made.int8_convs == 4
    tail = [each.op_type for each in onnx.load(made.path).graph.node if each.op_type in ("Softmax", "MatMul")]
    assert tail == ["Softmax", "MatMul"]  # the mean is no convolution any more, and in float
    pixels, score = difference(task, one(picture), other(picture))
    assert 0 < pixels < 1 and 0 < score < 0.05


def test_squares_are_predicted_and_drawn_into_files(tmp_path, data, task) -> None:
    found = vl.predict(write_squares(tmp_path / "a.onnx"), data.parent / "images/val", tmp_path / "found")

    assert len(found.detections[0]) == 3 and dots_in(cv2.imread(str(tmp_path / "found" / "a.png"))) == 3
