"""Masks and keypoints scored as pycocotools does from files; oriented boxes against clipping and upright boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionlora.data import LabelledImage, to_coco
from visionlora.scoring import SplitDetections, coco_scores, judge, mean_precision
from visionlora.scoring.bootstrap import draw_images
from visionlora.scoring.overlaps import oks_matrix, oriented_iou
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment, Task
from visionlora.vision.detections import Detections
from visionlora.vision.masks import RleMasks, encode_rle
from visionlora.vision.rotated import corners_of, regularized, upright

SIZE_WH = (200, 160)
NAMES = ("crack", "pit")
IMAGES, OBJECTS = 12, 6


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 5) oriented boxes inside the picture."""
    return np.column_stack(
        [
            rng.uniform(50, 150, count),
            rng.uniform(50, 110, count),
            rng.uniform(8, 45, (count, 2)),
            rng.uniform(0, 1.5, count),
        ]
    )


def moved(rng: np.random.Generator, obb: np.ndarray) -> np.ndarray:
    """The same boxes, some of them a little elsewhere, some of them far away."""
    spread = rng.choice([0.5, 2, 6], (len(obb), 1)) * [1, 1, 1, 1, 0.03]
    found = obb + rng.normal(0, 1, obb.shape) * spread
    found[:, 2:4] = np.maximum(found[:, 2:4], 4)
    return regularized(found)


def polygon_masks(obb: np.ndarray) -> RleMasks:
    canvases = [np.zeros(SIZE_WH[::-1], dtype=np.uint8) for _ in obb]
    for canvas, corners in zip(canvases, corners_of(obb), strict=True):
        cv2.fillPoly(canvas, [corners.round().astype(np.int32)], 1)
    whole = (0, 0, *SIZE_WH)
    return RleMasks(tuple(encode_rle(whole, canvas > 0, SIZE_WH) for canvas in canvases), SIZE_WH)


def scene(task: Task, seed: int = 0) -> tuple[list[LabelledImage], list[Detections]]:
    """Pictures with objects of a task, crowds among them, and what a fair model might find."""
    rng = np.random.default_rng(seed)
    images, detections = [], []
    for index in range(IMAGES):
        obb = regularized(rectangles(rng, OBJECTS))
        found = np.concatenate([moved(rng, obb), moved(rng, obb)[::2], regularized(rectangles(rng, 3))])
        class_ids = rng.integers(0, 2, OBJECTS)
        found_ids = np.concatenate([class_ids, class_ids[::2], rng.integers(0, 2, 3)])
        scores = rng.uniform(0.05, 0.95, len(found)).round(2)
        crowd = rng.random(OBJECTS) < (0 if isinstance(task, Pose) else 0.15)
        truth: dict[str, Any] = {"areas": obb[:, 2] * obb[:, 3]}
        more: dict[str, Any] = {}
        if isinstance(task, Segment):
            rles = polygon_masks(obb).rles
            halves = [(corners.astype(np.float64), corners[:3] + 5.0) for corners in corners_of(obb)]
            truth["segments"] = tuple(dict(rles[i]) if i % 2 else halves[i] for i in range(OBJECTS))
            more["masks"] = polygon_masks(found)
        elif isinstance(task, Pose):
            points = rng.uniform(-0.5, 0.5, (task.keypoints, 2))
            visible = rng.integers(0, 3, (OBJECTS, task.keypoints)) * (rng.random((OBJECTS, 1)) < 0.8)
            truth["keypoints"] = np.dstack([obb[:, None, :2] + points * obb[:, None, 2:4], visible])
            placed = found[:, None, :2] + points * found[:, None, 2:4]
            more["keypoints"] = np.dstack([placed, np.ones(placed.shape[:2])])
        elif isinstance(task, OrientedBoxes):
            truth["obb"], more["obb"] = obb, found
        boxes = np.clip(upright(obb), 0, SIZE_WH * 2)
        images.append(LabelledImage(Path(f"{index}.png"), SIZE_WH, boxes, class_ids, crowd, **truth))
        detections.append(Detections(upright(found), scores, found_ids, **more))
    return images, detections


def pycocotools_scores(task: Task, images, detections, folder: Path, sigmas=None) -> list[float]:
    """mAP50-95, mAP50, mAP75, small, medium, large and AR of files, as pycocotools reads and scores them."""
    truth = to_coco(images, NAMES)
    results = []
    for index, one in enumerate(detections, start=1):
        columns = {name: np_list(values) for name, values in task.coco_fields(one).items()}
        for row in range(len(one)):
            extra = {name: columns[name][row] for name in ("segmentation", "keypoints") if name in columns}
            label = {"image_id": index, "category_id": int(one.class_ids[row]), "score": float(one.scores[row])}
            results.append(label | extra)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(results))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), task.iou_type)
    evaluation.params.maxDets = [300]
    evaluation.params.areaRng = [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]
    evaluation.params.areaRngLbl = ["all", "small", "medium", "large"]
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = sigmas
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., i] for i in (1, 2, 3))]
    return [float(part[part > -1].mean()) if (part > -1).any() else -1 for part in (*parts, recall[..., 0])]


def np_list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()


@pytest.mark.parametrize("task", [Segment(), Pose(17, 3), Pose(5, 2)], ids=["masks", "person", "5 keypoints"])
def test_scores_are_those_of_pycocotools_from_files(tmp_path: Path, task: Task) -> None:
    images, detections = scene(task)
    sigmas = np.full(5, 1 / 5) if task == Pose(5, 2) else None
    expected = pycocotools_scores(task, images, detections, tmp_path, sigmas)
    scores = coco_scores(detections, images, NAMES, task=task)
    sizes = scores.map_small, scores.map_medium, scores.map_large
    got = [
        scores.map50_95,
        scores.map50,
        scores.map75,
        *(-1 if size is None else size for size in sizes),
        scores.recall,
    ]

    assert 0.1 < scores.map50_95 < 0.95
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert mean_precision(detections, images, NAMES, task=task).map50_95 == scores.map50_95


def test_sigmas_of_a_data_set_are_those_that_count(tmp_path: Path) -> None:
    images, detections = scene(Pose(5, 3))
    sigmas = np.array([0.02, 0.05, 0.1, 0.2, 0.3])
    expected = pycocotools_scores(Pose(5, 3), images, detections, tmp_path, sigmas)
    given = [replace(image, sigmas=sigmas) for image in images]

    assert coco_scores(detections, given, NAMES, task=Pose(5, 3)).map50_95 == pytest.approx(expected[0])
    assert coco_scores(detections, images, NAMES, task=Pose(5, 3)).map50_95 != pytest.approx(expected[0])


def test_object_keypoint_similarity_is_that_of_pycocotools() -> None:
    task = Pose(17, 3)
    images, detections = scene(task, seed=3)
    evaluation = COCOeval(iouType="keypoints")
    evaluation.params.maxDets = [300]
    for image, found in zip(images, detections, strict=True):
        fields = task.coco_fields(image) | {"area": image.object_areas}
        columns = {name: values.tolist() for name, values in fields.items()}
        evaluation._gts[0, 0] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        points = task.coco_fields(found)["keypoints"].tolist()
        scores = np.linspace(1, 0, len(points))
        evaluation._dts[0, 0] = [{"keypoints": one, "score": s} for one, s in zip(points, scores, strict=True)]
        np.testing.assert_allclose(oks_matrix(found.keypoints, image), evaluation.computeOks(0, 0), rtol=1e-9)


def clipped_area(a: np.ndarray, b: np.ndarray) -> float:
    """What two convex polygons share, by cutting one along every side of the other (Sutherland and Hodgman, 1974)."""
    points = list(a.astype(np.float64))
    for start, end in zip(b.astype(np.float64), np.roll(b, -1, axis=0).astype(np.float64), strict=True):
        sides = [np.cross(end - start, point - start) for point in points]
        cut = []
        for i in range(len(points)):
            if (sides[i - 1] >= 0) != (sides[i] >= 0):
                cut.append(points[i - 1] + (points[i] - points[i - 1]) * sides[i - 1] / (sides[i - 1] - sides[i]))
            if sides[i] >= 0:
                cut.append(points[i])
        points = cut
    return abs(sum(np.cross(points[i - 1], points[i]) for i in range(len(points)))) / 2


@pytest.mark.parametrize("spread", [0, 1e-5, 0.1, 3, 30])
def test_oriented_iou_is_that_of_clipped_polygons(spread: float) -> None:
    rng = np.random.default_rng(0)
    a = rectangles(rng, 25)
    b = a + rng.normal(0, 1, a.shape) * spread * [1, 1, 0.3, 0.3, 0.05]
    b[:, 2:4] = np.maximum(b[:, 2:4], 1)
    corners = [corners_of(one).astype(np.float64)[:, ::-1] for one in (a, b)]  # the other way around
    shared = np.array([[clipped_area(one, other) for other in corners[1]] for one in corners[0]])
    areas = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    iou, share = oriented_iou(a, b)

    np.testing.assert_allclose(iou, shared / (areas[0][:, None] + areas[1][None] - shared), atol=1e-3)
    np.testing.assert_allclose(share, shared / areas[0][:, None], atol=1e-3)


def turned(obb: np.ndarray, angle: float) -> np.ndarray:
    """Oriented boxes on a picture that is turned about its centre."""
    cos, sin = np.cos(angle), np.sin(angle)
    centre = np.array(SIZE_WH) / 2
    places = (obb[:, :2] - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    return regularized(np.column_stack([places, obb[:, 2:4], obb[:, 4] + angle]))


def test_upright_oriented_boxes_score_as_boxes_and_turning_the_picture_changes_nothing() -> None:
    task = OrientedBoxes()
    images, detections = scene(task)
    flat = [replace(image, obb=image.obb * [1, 1, 1, 1, 0]) for image in images]
    flat = [replace(image, boxes_xyxy=upright(image.obb)) for image in flat]
    found = [replace(one, obb=one.obb * np.float32([1, 1, 1, 1, 0])) for one in detections]
    found = [replace(one, boxes_xyxy=upright(one.obb)) for one in found]
    expected = coco_scores(found, flat, NAMES, task=DETECT)
    scores = coco_scores(found, flat, NAMES, task=task)

    assert 0.1 < scores.map50_95 < 0.95
    assert (scores.map50_95, scores.map50, scores.recall) == pytest.approx(
        (expected.map50_95, expected.map50, expected.recall), abs=1e-3
    )
    around = [replace(image, obb=turned(image.obb, 0.7)) for image in flat]
    there = [replace(one, obb=turned(one.obb, 0.7)) for one in found]
    assert coco_scores(there, around, NAMES, task=task).map50_95 == pytest.approx(scores.map50_95, abs=1e-3)


@pytest.mark.parametrize("task", [Segment(), Pose(17, 3), OrientedBoxes()], ids=["segment", "pose", "obb"])
def test_what_is_found_at_a_threshold_is_what_the_matching_says(task: Task) -> None:
    images, detections = scene(task)
    found = SplitDetections(tuple(detections), NAMES, task)
    judged = judge(found, images, NAMES, weights=draw_images(len(images)), confidence=0.5)
    above = judged.matches.scores > 0.5
    point = judged.operating

    assert point.found == int(judged.matches.right[above, 0].sum()) > 10
    assert point.false_alarms == int((judged.matches.counted & ~judged.matches.right)[above, 0].sum())
    assert point.objects == int(judged.matches.objects.sum())
    assert judged.scores.interval.low < judged.scores.map50_95 < judged.scores.interval.high
    if task == OrientedBoxes():
        assert judged.boxes is None
    else:
        assert judged.boxes.map50_95 == coco_scores(detections, images, NAMES, task=DETECT).map50_95
        assert judged.boxes.interval is not None and judged.boxes.map50_95 != judged.scores.map50_95
