from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.reporting.cases import EMPTY, random_case
from visionlora.data import load_coco, to_coco
from visionlora.errors import UsageError
from visionlora.scoring import coco_scores, mean_precision
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

AREAS = (500.0, 32.0**2, 3000.0, 96.0**2, 20_000.0)
"""Small, medium and large, and the limits between them, which pycocotools counts on both sides."""


def _by_hand(folder: Path, truth, found, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101, classes, sizes) and recall (10, classes, sizes) by pycocotools from JSON files."""
    annotations = [
        {"id": 0, "image_id": i, "category_id": int(c) + 1, "bbox": box, "area": area, "iscrowd": n}
        for i, image in enumerate(truth)
        for c, (x1, y1, x2, y2), n, own in zip(
            image.class_ids,
            image.boxes_xyxy.tolist(),
            image.is_crowd.astype(int).tolist(),
            [None] * len(image.class_ids) if image.areas is None else image.areas.tolist(),
            strict=True,
        )
        for box in [[x1, y1, x2 - x1, y2 - y1]]
        for area in [box[2] * box[3] if own is None else own]
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    results = [
        {"image_id": i, "category_id": int(c) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(s)}
        for i, one in enumerate(found)
        for c, s, (x1, y1, x2, y2) in zip(one.class_ids, one.scores, one.boxes_xyxy.tolist(), strict=True)
    ]
    (folder / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": i} for i in range(len(truth))],
                "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
                "annotations": annotations,
            }
        )
    )
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 2], evaluation.eval["recall"][..., 2]


@pytest.mark.parametrize(
    ("seed", "images", "classes", "detections"),
    [
        pytest.param(0, 12, 3, 20, id="few"),
        pytest.param(1, 12, 3, 20, id="tied-scores"),
        pytest.param(2, 4, 1, 250, id="more-than-100-an-image"),
        pytest.param(3, 6, 9, 30, id="classes-without-objects"),
        pytest.param(4, 1, 2, 10, id="one-image"),
    ],
)
def test_scores_equal_pycocotools_on_exported_files(tmp_path, seed, images, classes, detections) -> None:
    truth, found = random_case(seed, images=images, classes=classes, detections=detections)
    names = [f"class {index}" for index in range(classes)]

    scores = coco_scores(found, truth, names, task=DETECT)

    by_size, recall = _by_hand(tmp_path, truth, found, classes)
    expected = by_size[..., 0]
    assert 0.05 < scores.map50_95 < 0.95
    assert scores.map50_95 == pytest.approx(expected[expected > -1].mean(), abs=1e-9)
    assert scores.map50 == pytest.approx(expected[0][expected[0] > -1].mean(), abs=1e-9)
    assert scores.map75 == pytest.approx(expected[5][expected[5] > -1].mean(), abs=1e-9)
    for size, got in enumerate([scores.map_small, scores.map_medium, scores.map_large], start=1):
        known = by_size[..., size][by_size[..., size] > -1]
        assert got == (pytest.approx(known.mean(), abs=1e-9) if len(known) else None)
    assert scores.recall == pytest.approx(recall[..., 0][recall[..., 0] > -1].mean(), abs=1e-9)
    for column, one in enumerate(scores.per_class):
        mean = expected[:, :, column].mean()
        assert one.ap50_95 == (None if mean == -1 else pytest.approx(mean, abs=1e-9))


def test_detections_beyond_the_hundredth_count(tmp_path) -> None:
    truth, found = random_case(2, images=4, classes=1, detections=250)

    assert coco_scores(found, truth, ["a"], task=DETECT) != coco_scores(
        [one.top(100) for one in found], truth, ["a"], task=DETECT
    )


def test_perfect_detections_score_one(images, names, perfect) -> None:
    scores = coco_scores([perfect(image) for image in images], images, names, task=DETECT)

    assert (scores.map50_95, scores.map50, scores.map75) == pytest.approx((1, 1, 1))
    assert [(one.name, one.images, one.objects) for one in scores.per_class] == [
        ("red", 3, 3),
        ("green", 3, 3),
        ("blue", 3, 3),
    ]


def test_no_detections_score_zero(images, names) -> None:
    scores = coco_scores([EMPTY] * len(images), images, names, task=DETECT)

    assert (scores.map50_95, scores.map50, scores.map75) == (0, 0, 0)
    assert [one.ap50_95 for one in scores.per_class] == [0, 0, 0]


def test_right_box_of_wrong_class_scores_zero(images, names, perfect) -> None:
    found = [replace(perfect(image), class_ids=(image.class_ids + 1) % 3) for image in images]

    assert coco_scores(found, images, names, task=DETECT).map50 == 0


def test_class_without_objects_has_no_score_and_stays_out_of_the_mean(images, names, perfect) -> None:
    found = [perfect(image) for image in images]
    found[0] = Detections([[1, 1, 9, 9], *found[0].boxes_xyxy], [0.99, 0.9], [3, 0])  # a false one of the absent class

    scores = coco_scores(found, images, [*names, "absent"], task=DETECT)

    absent = scores.per_class[3]
    assert (absent.ap50_95, absent.ap50, absent.images, absent.objects) == (None, None, 0, 0)
    assert scores.map50_95 == pytest.approx(1)


def test_false_detections_on_an_image_without_objects_cost_precision(images, names, perfect) -> None:
    found = [perfect(image) for image in images]
    found[3] = Detections([[1, 1, 9, 9]], [0.99], [0])

    scores = coco_scores(found, images, names, task=DETECT)

    assert len(images[3].class_ids) == 0
    assert scores.per_class[0].ap50 < 0.8
    assert scores.per_class[1].ap50 == pytest.approx(1)


def test_split_without_any_object_has_no_score(images, names) -> None:
    scores = coco_scores([EMPTY], [images[3]], names, task=DETECT)

    assert (scores.map50_95, scores.map50, scores.map75) == (None, None, None)


def test_subset_counts_its_classes_alone(images, names, perfect) -> None:
    found = [replace(perfect(image), scores=np.full(len(image.class_ids), 0.5)) for image in images]
    found[0] = EMPTY  # one of three red objects is missed

    whole = coco_scores(found, images, names, task=DETECT)
    part = coco_scores(found, images, names, classes={"blue", "green"}, task=DETECT)

    assert [one.name for one in part.per_class] == ["green", "blue"]
    assert part.map50_95 == pytest.approx(1)
    assert whole.map50_95 < 0.95
    assert whole.mean_over(["green", "blue"]) == part.map50_95


def test_scoring_prints_nothing(images, names, perfect, capfd) -> None:
    coco_scores([perfect(image) for image in images], images, names, task=DETECT)

    assert capfd.readouterr() == ("", "")


def test_unequal_lengths_are_refused(images, names) -> None:
    with pytest.raises(UsageError, match="each of 6 images, got 1"):
        coco_scores([EMPTY], images, names, task=DETECT)


def test_unknown_class_is_refused(images, names) -> None:
    with pytest.raises(UsageError, match=r"\['pink'\] are not in the data set"):
        coco_scores([EMPTY] * 6, images, names, classes=["pink", "red"], task=DETECT)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_crowds_count_as_in_pycocotools(tmp_path, seed) -> None:
    truth, found = random_case(seed, images=15, classes=2, detections=20)
    rng = np.random.default_rng(seed)
    truth = [replace(image, crowd=rng.random(len(image.class_ids)) < 0.4) for image in truth]

    scores = coco_scores(found, truth, ["a", "b"], task=DETECT)

    expected = _by_hand(tmp_path, truth, found, 2)[0][..., 0]
    assert scores.map50_95 == pytest.approx(expected.mean(), abs=1e-9)
    assert (
        scores.map50_95
        != coco_scores(found, [replace(one, crowd=None) for one in truth], ["a", "b"], task=DETECT).map50_95
    )
    assert sum(one.objects for one in scores.per_class) == sum(int((~image.is_crowd).sum()) for image in truth)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_areas_of_the_ground_truth_decide_the_size_as_in_pycocotools(tmp_path, seed) -> None:
    truth, found = random_case(seed, images=15, classes=2, detections=20)
    rng = np.random.default_rng(seed)
    truth = [
        replace(
            one,
            crowd=rng.random(len(one.class_ids)) < 0.2,
            areas=rng.choice(AREAS, len(one.class_ids)),
        )
        for one in truth
    ]

    scores = coco_scores(found, truth, ["a", "b"], task=DETECT)

    precision = _by_hand(tmp_path, truth, found, 2)[0]
    expected = [precision[..., size][precision[..., size] > -1].mean() for size in range(4)]
    assert [scores.map50_95, scores.map_small, scores.map_medium, scores.map_large] == pytest.approx(expected, abs=1e-9)
    assert (
        scores.map_large
        != coco_scores(found, [replace(one, areas=None) for one in truth], ["a", "b"], task=DETECT).map_large
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_coco_file_scores_as_pycocotools_scores_it(tmp_path, seed) -> None:
    truth, found = random_case(seed, images=12, classes=3, detections=20)
    rng = np.random.default_rng(seed)
    names = [f"{index:02}.png" for index in range(len(truth))]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((300, 300, 3), np.uint8))
    fields = to_coco([replace(one, path=Path(name)) for one, name in zip(truth, names, strict=True)], ["a", "b", "c"])
    for one in fields["annotations"]:  # from here on the file alone says it, to pycocotools and to us
        one.update(iscrowd=int(rng.random() < 0.2), area=rng.choice(AREAS))
    (tmp_path / "a.json").write_text(json.dumps(fields))
    dataset = load_coco(tmp_path / "a.json")

    scores = coco_scores(found, dataset.split("val"), dataset.names, task=DETECT)

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "a.json"))
        results = [
            {"image_id": i, "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(s)}
            for i, one in enumerate(found, start=1)
            for c, s, (x1, y1, x2, y2) in zip(one.class_ids, one.scores, one.boxes_xyxy.tolist(), strict=True)
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 2]
    expected = [precision[..., size][precision[..., size] > -1].mean() for size in range(4)]
    assert [scores.map50_95, scores.map_small, scores.map_medium, scores.map_large] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_mean_precision_is_that_of_all_scores(seed: int) -> None:
    truth, found = random_case(seed, images=12, classes=4, detections=15)
    names = ["a", "b", "c", "d", "none of this"]

    scores, quick = coco_scores(found, truth, names, task=DETECT), mean_precision(found, truth, names, task=DETECT)

    assert (quick.map50_95, quick.map50) == (scores.map50_95, scores.map50)
