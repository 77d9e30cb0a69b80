"""Masks, keypoints and rotated boxes: decoded as Ultralytics does, drawn, written, and read again."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import supervision
import torch
from onnx import TensorProto, helper, numpy_helper
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes, scale_coords

import visionlora as vl
from tests.tiny_onnx import NAMES, own_metadata, save
from visionlora.cards import make_card
from visionlora.data.labels import parse_labels
from visionlora.errors import ModelError, UsageError
from visionlora.patching.selftest import self_test
from visionlora.quantization.sensitivity import prediction_error
from visionlora.reporting.retention import same
from visionlora.runtime import OnnxNetwork
from visionlora.scoring.cache import keep_found, load_found
from visionlora.scoring.detect_split import SplitDetections
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment, difference, one_image, task_of, task_on
from visionlora.vision.preprocess import letterbox
from visionlora.vision.rotated import regularized

SIDE, ANCHORS, CLASSES = 64, 84, 3
TASKS = [Segment(8), Pose(5, 3), Pose(4, 2), OrientedBoxes()]
IDS = ["segment", "pose", "flat pose", "obb"]
PICTURE = np.full((50, 100, 3), 90, dtype=np.uint8)
of_every_task = pytest.mark.parametrize("task", TASKS, ids=IDS)


def raw(task, *, batch: int = 1, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Objects that are found several times each, at places all over the picture in the input and at its edges."""
    rng = np.random.default_rng(seed)
    first = np.zeros((batch, task.rows(CLASSES), ANCHORS), dtype=np.float32)
    centres = np.repeat(rng.uniform(0, SIDE, (batch, 2, ANCHORS // 6)), 6, axis=2)
    centres[:, 1] = SIDE / 4 + centres[:, 1] / 2  # the letterbox leaves room above and below
    first[:, :2] = centres + rng.normal(0, 0.5, (batch, 2, ANCHORS))
    first[:, 2:4] = np.repeat(rng.uniform(10, 30, (batch, 2, ANCHORS // 6)), 6, axis=2)
    scores = rng.permuted(np.linspace(0, 0.9, batch * CLASSES * ANCHORS))
    first[:, 4 : 4 + CLASSES] = scores.reshape(batch, CLASSES, ANCHORS)
    extras = rng.normal(0, 1, (batch, task.extras, ANCHORS))
    if isinstance(task, Pose):
        points = extras.reshape(batch, task.keypoints, task.dims, ANCHORS)
        points[:, :, :2] = rng.uniform(0, SIDE, points[:, :, :2].shape)
        points[:, :, 2:] = rng.uniform(0, 1, points[:, :, 2:].shape)
    first[:, 4 + CLASSES :] = extras
    rest = [cv2.GaussianBlur(one, (5, 5), 1) for one in rng.normal(0, 4, (batch * 8, 16, 16))]
    prototypes = np.stack(rest).reshape(batch, 8, 16, 16).astype(np.float32)
    return (first, prototypes) if task.outputs == 2 else (first,)


def found_in(task, *, seed: int = 0):
    _, placement = letterbox(PICTURE, SIDE)
    outputs = one_image(raw(task, seed=seed), 0)
    return replace(task.decode(outputs, nms=True, confidence=0.5, placement=placement), names=NAMES)


def write_file(path, task, outputs, *, properties=None):
    """A file that gives these outputs, the first of them moved a little by the picture, whatever it sees."""
    nodes, constants, values = [helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0)], {}, []
    for index, output in enumerate(outputs):
        moving = (output[:1] if index == 0 else np.zeros_like(output[:1])) * 1e-9
        constants |= {f"value{index}": output[:1], f"moving{index}": moving.astype(np.float32)}
        nodes.append(helper.make_node("Mul", ["sum", f"moving{index}"], [f"moved{index}"]))
        nodes.append(helper.make_node("Add", [f"value{index}", f"moved{index}"], [f"output{index}"]))
        values.append(helper.make_tensor_value_info(f"output{index}", TensorProto.FLOAT, output[:1].shape))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "constant", [images], values, tensors)
    if properties is None:
        settings = {"task_settings": task.settings()} if task.settings() else {}
        card = {**own_metadata(image_size=SIDE), "task": task.name, **settings}
        properties = {"visionlora": json.dumps(card)}
    return save(graph, path, properties)


@of_every_task
def test_detections_are_those_of_ultralytics(task) -> None:
    outputs = raw(task)
    rotated = task.name == "obb"
    options = {"multi_label": True, "nc": CLASSES, "rotated": rotated, "max_det": 300}
    (rows,) = non_max_suppression(torch.from_numpy(outputs[0]), 0.5, 0.6, **options)
    _, placement = letterbox(PICTURE, SIDE)
    found = task.decode(one_image(outputs, 0), nms=True, confidence=0.5, iou_threshold=0.6, placement=placement)

    assert 5 < len(found) == len(rows)
    np.testing.assert_allclose(found.scores, rows[:, 4])
    np.testing.assert_array_equal(found.class_ids, rows[:, 5])
    boxes = scale_boxes((SIDE, SIDE), rows[:, :4].clone(), PICTURE.shape[:2], xywh=rotated).numpy()
    extras = rows[:, 6:]
    if rotated:
        np.testing.assert_allclose(found.obb, regularized(np.concatenate([boxes, extras], axis=1)), atol=1e-3)
        return
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=1e-3)
    if found.masks is not None:
        np.testing.assert_array_equal(found.masks.coefficients, extras)
    if found.keypoints is not None:
        points = extras.reshape(len(rows), task.keypoints, task.dims)
        places = scale_coords((SIDE, SIDE), points[..., :2].clone(), PICTURE.shape[:2])
        np.testing.assert_allclose(found.keypoints[..., :2], places, atol=1e-3)
        np.testing.assert_array_equal(found.keypoints[..., 2:], points[..., 2:] if task.dims == 3 else 1)


@of_every_task
def test_what_is_found_is_a_picture_and_json_and_label_lines(task) -> None:
    found = found_in(task)
    assert (found.draw(PICTURE) != PICTURE).any() and json.loads(json.dumps(found.to_dict()))["detections"]
    assert len(json.loads(json.dumps(found.to_coco(1)))) == len(found)
    rows = task.label_rows(found, (100, 50))
    pairs = zip(found.class_ids, rows, strict=True)
    text = "".join(f"{class_id} {' '.join(map(str, row))}\n" for class_id, row in pairs if row)
    read = parse_labels(text, "a.txt", class_count=CLASSES, task=task)

    assert not read.problems and len(read.class_ids) == sum(map(bool, rows)) > 3
    kept = [index for index, row in enumerate(rows) if row]
    if task.name != "segment":
        np.testing.assert_allclose(read.boxes_xyxy * ([100, 50] * 2), found.boxes_xyxy[kept], atol=0.1)


@of_every_task
def test_nothing_found_is_drawn_and_written_too(task) -> None:
    nothing = found_in(task).above(1)

    assert len(nothing) == 0 and (nothing.draw(PICTURE) == PICTURE).all()
    assert nothing.to_dict() == {"detections": []} and nothing.to_coco(1) == []
    assert task.label_rows(nothing, (100, 50)) == [] and len(nothing.to_supervision()) == 0
    blank = tuple(np.zeros_like(output[0]) for output in raw(task))
    assert len(task.decode(blank, nms=True)) == 0 and len(task.decode(blank, nms=False)) == 0


def test_supervision_gets_masks_keypoints_and_corners() -> None:
    segment, pose, obb = (found_in(task) for task in (TASKS[0], TASKS[1], TASKS[3]))
    np.testing.assert_array_equal(segment.to_supervision().mask[1], segment.masks.dense(1))
    points = pose.to_supervision()
    assert isinstance(points, supervision.KeyPoints)
    np.testing.assert_array_equal(np.dstack([points.xy, points.keypoint_confidence]), pose.keypoints)
    annotated = supervision.OrientedBoxAnnotator().annotate(PICTURE.copy(), obb.to_supervision())
    assert (annotated != PICTURE).any()


@of_every_task
def test_some_detections_keep_what_belongs_to_them(task) -> None:
    found = found_in(task)
    chosen = found.top(2)
    for index, coco in enumerate(chosen.to_coco(1)):
        assert coco == found.to_coco(1)[index]
    with pytest.raises(UsageError, match="Detections: expected"):
        wrong = found.top(1)
        replace(found, masks=wrong.masks, keypoints=wrong.keypoints, obb=wrong.obb)


@of_every_task
def test_a_file_is_opened_tried_and_kept_for_its_task(tmp_path, task, monkeypatch) -> None:
    monkeypatch.setenv("VISIONLORA_CACHE", str(tmp_path / "cache"))
    path = write_file(tmp_path / "a.onnx", task, raw(task))
    detector = vl.Detector(path, confidence=0.5)
    first, second = detector.predict([PICTURE, PICTURE])
    self_test(path, NAMES)

    assert detector.network.task == task and len(first) == len(found_in(task))
    (same_again,) = vl.predict(
        path, _written(tmp_path), tmp_path / "out", conf=0.5, formats=["labels", "coco"]
    ).detections
    assert len(same_again) == len(first) and (tmp_path / "out/labels/p.txt").read_text().count("\n") > 3
    split = SplitDetections((first, second.top(0)), NAMES, task=task)
    keep_found("a" * 64, split)
    again = load_found("a" * 64, task)
    assert same(again, split) and again.detections[0].to_coco(1) == first.to_coco(1)
    assert len(again.detections[1].masks or ()) == 0


def _written(folder):
    (folder / "in").mkdir()
    cv2.imwrite(str(folder / "in/p.png"), PICTURE)
    return folder / "in"


def test_ultralytics_files_say_their_sizes(tmp_path) -> None:
    stock = {"names": str(dict(enumerate(NAMES))), "imgsz": str([SIDE, SIDE])}
    pose = write_file(
        tmp_path / "a.onnx", TASKS[1], raw(TASKS[1]), properties={**stock, "task": "pose", "kpt_shape": "[5, 3]"}
    )
    masks = write_file(tmp_path / "b.onnx", TASKS[0], raw(TASKS[0]), properties={**stock, "task": "segment"})
    alone = write_file(tmp_path / "c.onnx", TASKS[0], raw(TASKS[0])[:1], properties={**stock, "task": "segment"})

    assert OnnxNetwork(pose).task == Pose(5, 3) and OnnxNetwork(masks).task == Segment(8)
    with pytest.raises(ModelError, match=r"c\.onnx: expected a detector with one input and 2 outputs, .* 1 and 1"):
        OnnxNetwork(alone)


@of_every_task
def test_final_detections_are_read_as_they_are(tmp_path, task) -> None:
    found = task.decode(one_image(raw(task), 0), nms=True, confidence=0.5)
    final = np.zeros((1, len(found), task.final_columns), dtype=np.float32)
    final[0, :, :4] = found.boxes_xyxy if found.obb is None else found.obb[:, :4]
    final[0, :, 4], final[0, :, 5] = found.scores, found.class_ids
    if found.masks is not None:
        final[0, :, 6:] = found.masks.coefficients
    elif found.keypoints is not None:
        final[0, :, 6:] = found.keypoints[..., : task.dims].reshape(len(found), -1)
    else:
        final[0, :, 6:] = found.obb[:, 4:]
    stated = {"names": str(dict(enumerate(NAMES))), "imgsz": str([SIDE, SIDE]), "end2end": "True", "task": task.name}
    stated |= {"kpt_shape": str([task.keypoints, task.dims])} if task.name == "pose" else {}
    network = OnnxNetwork(write_file(tmp_path / "a.onnx", task, (final, *raw(task)[1:]), properties=stated))
    outputs = network(np.zeros((1, 3, SIDE, SIDE), np.float32))
    again = task.decode(one_image(outputs, 0), nms=network.nms, confidence=0.5)

    assert not network.nms
    for name in ("boxes_xyxy", "scores", "class_ids", "keypoints", "obb"):
        if getattr(found, name) is not None:
            np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=1e-4)
    if found.masks is not None:
        np.testing.assert_array_equal(again.masks.coefficients, found.masks.coefficients)


@of_every_task
def test_some_classes_are_found_as_if_there_were_no_others(task) -> None:
    outputs = raw(task)
    chosen = (outputs[0][:, task.rows_of([2, 0], classes=CLASSES)], *outputs[1:])
    some = task.decode(one_image(chosen, 0), nms=True)
    expected = task.decode(one_image(outputs, 0), nms=True).of(0, 2)

    np.testing.assert_array_equal(np.array([2, 0])[some.class_ids], expected.class_ids)
    np.testing.assert_array_equal(some.boxes_xyxy, expected.boxes_xyxy)


@of_every_task
def test_predictions_differ_where_any_part_of_them_does(task) -> None:
    outputs = raw(task)
    assert difference(task, outputs, outputs) == (0, 0)
    still = prediction_error(task, [outputs], [outputs])
    for part, place in [(0, (0, 2, 3)), (0, (0, -1, 3)), *([(1, (0, 2, 5, 5))] if task.outputs == 2 else [])]:
        other = tuple(output.copy() for output in outputs)
        other[part][place] += 0.5
        assert difference(task, outputs, other)[0] == pytest.approx(0.5)
        tensors = [tuple(map(torch.from_numpy, each)) for each in (outputs, other)]
        assert difference(task, *tensors)[0] == pytest.approx(0.5)
    moved = (outputs[0] + np.float32(0.02), *outputs[1:])
    assert still.max() < 1e-6 < prediction_error(task, [outputs], [moved]).min()


@of_every_task
def test_a_card_holds_the_sizes_of_its_task(task) -> None:
    card = make_card("onnx", names=NAMES, image_size=SIDE, parents={}, settings={}, task=task, family=None)

    assert task_on(json.loads(json.dumps(card)), "a") == task and ("task_settings" in card) == bool(task.settings())
    assert "task_settings" not in make_card(
        "onnx", names=NAMES, image_size=SIDE, parents={}, settings={}, task=DETECT, family=None
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("detect", {"keypoints": 3}),
        ("pose", {"keypoints": 0}),
        ("pose", {"dims": 4}),
        ("pose", {"keypoints": "17"}),
        ("segment", [32]),
        ("segment", {"coefficients": True}),
    ],
)
def test_sizes_that_a_task_cannot_have_are_refused(name, settings) -> None:
    with pytest.raises(ModelError, match=f"a.onnx: task {name}: .*expected"):
        task_of(name, "a.onnx", settings)
