"""Masks, keypoints and oriented boxes the whole way: files and labels to numbers, pages, pictures and a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_onnx import save, write_detector
from visionlora import cli
from visionlora.errors import DataError
from visionlora.reporting import read_report
from visionlora.tasks import OrientedBoxes, Pose, Segment, Task
from visionlora.vision.rotated import corners_of
from visionlora.workflows.comparing import compare
from visionlora.workflows.evaluating import evaluate

SIDE = 64
NAMES = ("crack", "pit")
BOXES = np.float32([[8, 8, 30, 24], [24, 34, 56, 60]])
ANGLED = np.float32([[19, 16, 22, 10, 0.3], [42, 44, 24, 12, 1.1]])
POINTS = np.float32([[[10, 10], [20, 16], [28, 22]], [[26, 36], [40, 50], [54, 58]]])
TASKS = {task.name: task for task in (Segment(2), Pose(3, 3), OrientedBoxes())}
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))


def write_outputs(path: Path, task: Task, outputs: list[np.ndarray]) -> Path:
    """A file that gives these outputs for every picture, but for a millionth of its pixels' sum."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["mean", "small"], ["nothing"]))
    constants = [numpy_helper.from_array(np.float32(1e-6), "small")]
    values = []
    for index, output in enumerate(outputs):
        constants.append(numpy_helper.from_array(output.astype(np.float32), f"value{index}"))
        nodes.append(helper.make_node("Add", [f"value{index}", "nothing"], [f"output{index}"]))
        values.append(helper.make_tensor_value_info(f"output{index}", TensorProto.FLOAT, output.shape))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    properties = {"task": task.name, "names": str(dict(enumerate(NAMES))), "imgsz": str([SIDE, SIDE])}
    if isinstance(task, Pose):
        properties["kpt_shape"] = str([task.keypoints, task.dims])
    graph: onnx.GraphProto = helper.make_graph(nodes, "constant", [images], values, constants)
    return save(graph, path, properties)


def write_model(path: Path, task: Task, *, right: bool) -> Path:
    """A file that finds both objects; where it is not right, the second one's mask, keypoints or angle is wrong."""
    rows, more = BOXES, []
    if isinstance(task, Segment):
        rows = np.concatenate([BOXES, np.float32([[1, 0], [1, 0] if right else [0, 1]])], axis=1)
        prototypes = np.ones((1, 2, SIDE // 4, SIDE // 4))
        prototypes[0, 1, :, 8:] = -1
        more = [prototypes]
    elif isinstance(task, Pose):
        points = POINTS if right else POINTS * np.float32([[[1]], [[0.4]]])
        rows = np.concatenate([BOXES, np.dstack([points, np.full((2, 3), 0.9)]).reshape(2, 9)], axis=1)
    else:
        rows = ANGLED if right else ANGLED * np.float32([[1] * 5, [1, 1, 1, 1, -1]])
    scores = np.linspace(0.9, 0.8, 2, dtype=np.float32)[None]
    first = task.encode(rows[None].astype(np.float32), scores, np.array([[0, 1]]), classes=2)
    nothing = np.zeros((1, first.shape[1], 40), dtype=np.float32)  # more anchors than a final detection has columns
    return write_outputs(path, task, [np.concatenate([first, nothing], axis=2), *more])


def label_lines(task: Task) -> str:
    if isinstance(task, Segment):
        values = BOXES[:, [0, 1, 2, 1, 2, 3, 0, 3]].tolist()
    elif isinstance(task, Pose):
        sides = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)
        keypoints = np.dstack([POINTS / SIDE, np.full((2, 3), 2)]).reshape(2, 9)
        lines = np.concatenate([sides / SIDE, keypoints], axis=1).tolist()
        return "".join(f"{i} {' '.join(f'{value:.6f}' for value in line)}\n" for i, line in enumerate(lines))
    else:
        values = corners_of(ANGLED).reshape(2, 8).tolist()
    return "".join(f"{i} {' '.join(f'{value / SIDE:.6f}' for value in line)}\n" for i, line in enumerate(values))


def write_data(folder: Path, task: Task) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        cv2.imwrite(str(folder / f"images/{index}.png"), np.full((SIDE, SIDE, 3), 60 + 40 * index, dtype=np.uint8))
        (folder / f"labels/{index}.txt").write_text(label_lines(task))
    extra = f"kpt_shape: [{task.keypoints}, {task.dims}]\n" if isinstance(task, Pose) else ""
    (folder / "data.yaml").write_text(f"val: images\nnames: {list(NAMES)}\n{extra}")
    return folder / "data.yaml"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_judged_by_its_own_ruler_with_the_boxes_beside_it(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    data = write_data(tmp_path / "data", task)
    files = [write_model(tmp_path / f"{label}.onnx", task, right=label == "right") for label in ("wrong", "right")]
    report = evaluate(files, data, out=tmp_path / "report", html=True, cache=False)
    wrong, right = report.rows

    assert right.scores.map50_95 > 0.95 and 0.4 < wrong.scores.map50_95 < 0.85
    assert (right.operating.misses, right.operating.false_alarms) == (0, 0)
    assert wrong.difference_to("right.onnx") is None and right.difference_to("wrong.onnx").map50_95.measurable
    if name == "obb":
        assert right.boxes is None
    else:
        assert wrong.boxes.map50_95 == right.boxes.map50_95 == pytest.approx(1)
    fields = json.loads((tmp_path / "report/report.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(fields)
    assert fields["task"] == name and read_report(tmp_path / "report/report.json") == report
    words = (tmp_path / "report/report.md").read_text()
    assert f"average precision of {task.noun} by pycocotools" in words and f"from {task.similarity} 0.50" in words
    page = (tmp_path / "report/report.html").read_text()
    assert ("<circle class=" if name == "pose" else "<path class=") in page
    sheet = cv2.imread(str(tmp_path / "report/report_detections.png"))
    assert (sheet[40:360, 340:650] != sheet[40:360, 10:320]).any()

    evaluate(files[1:], data, out=tmp_path / "again", cache=False)
    compared = compare(tmp_path / "report", tmp_path / "again")
    assert compared.models[0].difference.map50_95.difference == 0


@pytest.mark.parametrize("name", TASKS)
def test_a_model_of_another_task_is_refused_with_what_its_labels_would_be(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    other = TASKS["segment" if name == "pose" else "pose"]
    model = write_model(tmp_path / "model.onnx", task, right=True)
    with pytest.raises(DataError) as caught:
        evaluate([model], write_data(tmp_path / "data", other), cache=False)
    words = {
        "segment": "expected a data set of task segment, got 'kpt_shape'",
        "pose": "got no kpt_shape",
        "obb": "expected a data set of task obb, got 'kpt_shape'",
    }
    assert words[name] in str(caught.value)


def test_boxes_are_judged_on_labels_of_masks_and_compared_with_them_in_words_alone(tmp_path: Path, capsys) -> None:
    data = write_data(tmp_path / "data", TASKS["segment"])
    masks = write_model(tmp_path / "masks.onnx", TASKS["segment"], right=True)
    boxes = write_detector(tmp_path / "boxes.onnx")
    for name, model in (("masks", masks), ("boxes", boxes)):
        assert cli.main(["eval", "--model", f"model={model}", "--data", str(data), "--out", str(tmp_path / name)]) == 0
    assert "6 of 6 labels of val are polygons" in capsys.readouterr().out
    text = compare(tmp_path / "masks", tmp_path / "boxes").text

    assert "one of masks, the other of boxes, so their scores have no difference" in text
    assert "`model` cannot be compared between tasks." in text
