"""Counts at a threshold: by hand on small pictures, against pycocotools' matches on random ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.data import LabelledImage
from visionlora.scoring.coco import score_and_match
from visionlora.scoring.operating import Confusion, best_threshold, operating_point, outcome_of
from visionlora.scoring.score_calibration import calibration
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

NAMES = ("crack", "pit")
CRACK, PIT, NOWHERE = (0, 0, 20, 20), (50, 50, 80, 80), (100, 0, 120, 9)


def _image(*objects: tuple[int, tuple[int, ...]]) -> LabelledImage:
    return LabelledImage(
        Path("a.png"), (200, 200), np.array([b for _, b in objects]), np.array([c for c, _ in objects])
    )


def _found(*objects: tuple[int, tuple[int, ...], float]) -> Detections:
    return Detections([b for _, b, _ in objects], [s for *_, s in objects], [c for c, *_ in objects])


def _point(found: list[Detections], images: list[LabelledImage], confidence: float = 0.25):
    outcomes = [
        outcome_of(one, image, confidence=confidence, task=DETECT) for one, image in zip(found, images, strict=True)
    ]
    return operating_point(
        outcomes, images, NAMES, score_and_match(found, images, NAMES, task=DETECT)[1], confidence=confidence
    )


def test_misses_false_alarms_and_confusions_are_counted_once() -> None:
    images = [_image((0, CRACK), (1, PIT)), _image((0, CRACK)), _image()]
    found = [_found((0, CRACK, 0.9), (0, PIT, 0.8)), _found((0, CRACK, 0.2)), _found((1, NOWHERE, 0.5))]

    point = _point(found, images)

    assert (point.found, point.misses, point.false_alarms) == (1, 2, 2)
    assert (point.precision, point.recall, point.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (point.misses_per_1000_images, point.false_alarms_per_1000_images) == pytest.approx((2000 / 3, 2000 / 3))
    assert (point.images_with_misses, point.images_with_false_alarms) == (2, 2)
    assert set(point.confusion) == {
        Confusion("crack", "crack", 1),
        Confusion("crack", None, 1),
        Confusion("pit", "crack", 1),
        Confusion(None, "pit", 1),
    }


def test_second_detection_of_an_object_is_a_false_alarm() -> None:
    point = _point([_found((0, CRACK, 0.9), (0, CRACK, 0.8))], [_image((0, CRACK))])

    assert (point.found, point.false_alarms, point.misses) == (1, 1, 0)


def test_right_class_is_preferred_to_a_better_scored_wrong_one() -> None:
    point = _point([_found((1, CRACK, 0.9), (0, CRACK, 0.5))], [_image((0, CRACK))])

    assert (point.found, point.false_alarms) == (1, 1)


def test_nothing_found_and_nothing_there_have_no_shares() -> None:
    point = _point([_found()], [_image()])

    assert (point.precision, point.recall, point.f1, point.best_f1, point.confusion) == (None, None, None, None, ())


@pytest.mark.parametrize("crowded", [0, 0.4])
@pytest.mark.parametrize("confidence", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_counts_equal_those_of_pycocotools(seed, confidence, crowded) -> None:
    images, found = random_case(seed, images=25, classes=2, detections=15)
    rng = np.random.default_rng(seed)
    images = [replace(image, crowd=rng.random(len(image.class_ids)) < crowded) for image in images]
    matches = score_and_match(found, images, NAMES, task=DETECT)[1]

    point = _point(found, images, confidence)

    above = (matches.scores > confidence) & matches.counted[:, 0]
    assert point.found == int(matches.right[above, 0].sum())
    assert point.false_alarms == int((~matches.right[above, 0]).sum())
    assert point.found + point.misses == int(matches.objects.sum())
    assert sum(cell.count for cell in point.confusion if cell.truth is not None) == int(matches.objects.sum())
    assert sum(cell.count for cell in point.confusion if cell.found is not None) == int(above.sum())
    assert sum(cell.count for cell in point.confusion if cell.truth == cell.found) == point.found


@pytest.mark.parametrize("seed", [0, 1])
def test_no_threshold_beats_the_best_one(seed) -> None:
    images, found = random_case(seed, images=20, classes=2, detections=10)
    best_f1, threshold = best_threshold(score_and_match(found, images, NAMES, task=DETECT)[1])

    others = [_point(found, images, confidence).f1 for confidence in np.linspace(0, 0.95, 96)]

    assert _point(found, images, threshold).f1 == pytest.approx(best_f1)
    assert max(others) <= best_f1 + 1e-9


def test_calibration_is_the_distance_of_score_and_share() -> None:
    images = [_image((0, CRACK))] * 4
    found = [_found((0, CRACK if i < 1 else NOWHERE, 0.75)) for i in range(4)]  # 1 of 4 right

    result = calibration(score_and_match(found, images, NAMES, task=DETECT)[1], confidence=0.25)

    assert result.error == pytest.approx(0.5)
    assert [one.detections for one in result.bins] == [0] * 7 + [4, 0, 0]
    assert (result.bins[7].mean_score, result.bins[7].precision) == pytest.approx((0.75, 0.25))


def test_calibration_without_detections_is_unknown() -> None:
    assert (
        calibration(score_and_match([_found()], [_image((0, CRACK))], NAMES, task=DETECT)[1], confidence=0.25).error
        is None
    )
