"""The layout of a task's predictions stands in one file, and what it says there is right."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from visionlora.errors import ModelError
from visionlora.tasks import DETECT, TASKS, task_of
from visionlora.tasks.task import difference
from visionlora.vision.boxes import iou_matrix
from visionlora.vision.preprocess import letterbox

PACKAGE = Path(__file__).parents[2] / "visionlora"
# `program * 4 + 1`, as the kernels count memory, is no row of a prediction.
LAYOUT = re.compile(
    r'(?<!\* )\b4 \+ |start=4\b|\[([\w:.]+, ?)*(0?:4|4:)(, ?:)*\]|\[((:|\.\.\.), ?)+[45]\]|"bbox"\)$', re.MULTILINE
)
NAMED = re.compile(r'^(?! *(?:>>>|\.\.\.) ).*(?:\bDETECT\b|"detect")', re.MULTILINE)  # but for examples


def boxes(count: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "line",
    [
        *("rows = 4 + classes", "x[:, :4]", "x[:, 4:]", "x[4:]", "x[..., 4:, :]", "one[0, :4]"),
        *("x[0:4]", "x[:, :, 0:4]", "x[i, :4]", "x[:, 4]", "x[..., 5]"),
    ],
)
def test_the_layout_of_detections_is_recognised(line) -> None:
    assert LAYOUT.search(line)


def test_the_layout_of_predictions_stands_in_the_room_of_tasks_alone() -> None:
    sources = {path for path in PACKAGE.rglob("*.py") if LAYOUT.search(path.read_text(encoding="utf-8"))}

    rotated = PACKAGE / "vision" / "rotated.py"  # its fifth column is the angle of a box
    assert {path for path in sources if path.parent.name != "tasks"} <= {rotated}


def test_who_takes_detection_for_granted_reads_or_writes_what_names_no_task() -> None:
    named = {path for path in PACKAGE.rglob("*.py") if NAMED.search(path.read_text(encoding="utf-8"))}

    readers = (
        "adapters/card.py",
        "bundling/manifest.py",
        "checking/checking.py",
        "checking/kinds.py",
        "checking/pictures.py",
        "cli/data.py",
        "data/coco_file.py",
        "data/dataset.py",
        "data/loading.py",
        "reporting/report.py",
        "runtime/description.py",
    )
    writers = ("data/preparing.py", "detectors/ultralytics/toy_base.py")
    tables = ("tasks/__init__.py", "tasks/detect.py", "publishing/card.py")
    training = ("training/record.py", "training/target.py")  # detection bases serve other tasks; records left it out
    room = (
        "checkpoint.py",
        "heads.py",
        "measuring.py",
        "squares.py",
        "step.py",
    )  # whose heads and batches differ by task
    extending = (*training, *(f"detectors/ultralytics/{name}" for name in room))
    boxes_alone = (f"detectors/torchvision/{name}" for name in ("checkpoint.py", "family.py", "layout.py"))
    assert named == {PACKAGE / name for name in (*readers, *writers, *tables, *extending, *boxes_alone)}


def test_every_data_set_is_loaded_for_a_task() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    calls = [call for text in sources for call in re.findall(r"^(?!.*(?:def |>>>)).*\bload_dataset\(.*", text, re.M)]

    assert len(calls) > 5 and [call for call in calls if "task=" not in call] == []


def test_every_task_goes_by_its_name() -> None:
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    assert task_of("detect", "a.onnx") is DETECT


@pytest.mark.parametrize("name", ["sort", "", None, ["detect"], 3, "x" * 999], ids=lambda name: repr(name)[:12])
def test_an_unknown_task_is_refused_with_the_file_and_the_tasks_that_there_are(name) -> None:
    with pytest.raises(ModelError, match=r"^a\.onnx: expected a model of task detect or .* classify, got .{0,75}; use"):
        task_of(name, "a.onnx")


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_a_prediction_is_split_without_a_copy(library) -> None:
    prediction = library(np.zeros((2, 7, 5), dtype=np.float32))
    geometry, scores = DETECT.split([prediction])
    scores[:] = 1

    assert (tuple(geometry.shape), tuple(scores.shape)) == ((2, 4, 5), (2, 3, 5))
    assert DETECT.rows(3) == 7 and float(prediction.sum()) == 2 * 3 * 5


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_the_difference_of_predictions_is_told_for_boxes_and_scores(library) -> None:
    one, other = np.zeros((2, 6, 5), dtype=np.float32), np.zeros((2, 6, 5), dtype=np.float32)
    one[1, 2, 3], other[0, 5, 0] = 7, 0.25

    assert difference(DETECT, [library(one)], [library(other)]) == (7, 0.25)
    other[0, 4, 1] = np.nan
    assert np.isnan(difference(DETECT, [library(one)], [library(other)])[1])


def test_boxes_that_were_encoded_are_decoded_again() -> None:
    expected, scores = boxes(9), np.linspace(0.9, 0.3, 9, dtype=np.float32)
    class_ids = np.arange(9) % 3
    raw = DETECT.encode(expected[None], scores[None], class_ids[None], classes=3)
    found = DETECT.decode([raw[0]], nms=False)

    assert raw.shape == (1, 7, 9) and found.class_ids.tolist() == class_ids.tolist()
    np.testing.assert_allclose(found.boxes_xyxy, expected, atol=1e-5)
    np.testing.assert_array_equal(found.scores, scores)


def test_some_classes_are_those_rows_of_a_prediction() -> None:
    raw = DETECT.encode(boxes(4)[None], np.full((1, 4), 0.5), np.array([[0, 1, 2, 1]]), classes=3)
    chosen = raw[:, DETECT.rows_of([2, 1], classes=3)]

    assert DETECT.decode([chosen[0]], nms=False).class_ids.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(DETECT.split([chosen])[0], DETECT.split([raw])[0])


def test_a_placement_brings_what_is_decoded_back_onto_the_picture() -> None:
    _, placement = letterbox(np.zeros((50, 100, 3), dtype=np.uint8), 200)
    raw = DETECT.encode(boxes(5)[None] + 50, np.full((1, 5), 0.5), np.zeros((1, 5), dtype=np.int64), classes=1)[0]
    found = DETECT.decode([raw], nms=True, placement=placement)

    expected = placement.to_original(DETECT.decode([raw], nms=True).boxes_xyxy)
    np.testing.assert_array_equal(found.boxes_xyxy, expected)


def test_overlap_is_the_iou_of_the_boxes_at_the_same_place() -> None:
    one, other = boxes(50), boxes(50, seed=1)
    raw = [DETECT.encode(each[None], np.ones((1, 50)), np.zeros((1, 50), np.int64), classes=1) for each in (one, other)]

    assert (np.diag(iou_matrix(one, other)) > 0).any()
    np.testing.assert_allclose(DETECT.overlap(*raw), np.diag(iou_matrix(one, other)), atol=1e-5)
