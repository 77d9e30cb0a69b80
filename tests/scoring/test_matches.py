"""Average precision from matches against pycocotools on images that are really repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.scoring import coco_scores
from visionlora.scoring.coco import score_and_match
from visionlora.scoring.cocoeval import run_cocoeval
from visionlora.scoring.matches import average_precision, precision_at_recalls
from visionlora.tasks import DETECT

CASES = [
    pytest.param(0, 12, 3, 20, id="few"),
    pytest.param(2, 4, 1, 250, id="many-an-image"),
    pytest.param(6, 6, 9, 30, id="classes-without-objects"),
    pytest.param(4, 1, 2, 10, id="one-image"),
]


@pytest.mark.parametrize(("seed", "images", "classes", "detections"), CASES)
def test_weights_count_as_repeated_images_do(seed, images, classes, detections) -> None:
    truth, found = random_case(seed, images=images, classes=classes, detections=detections)
    truth[0] = replace(truth[0], crowd=np.arange(len(truth[0].class_ids)) % 2 == 0)
    names = [f"class {index}" for index in range(classes)]
    _, matches = score_and_match(found, truth, names, task=DETECT)
    weights = np.random.default_rng(seed).integers(0, 4, (5, images))
    weights[0] = 1

    precision = average_precision(matches, weights)

    for row, counts in enumerate(weights):
        repeated = coco_scores(np.repeat(found, counts).tolist(), np.repeat(truth, counts).tolist(), names, task=DETECT)
        for column, one in enumerate(repeated.per_class):
            expected = np.nan if one.ap50_95 is None else one.ap50_95
            assert precision[row, :, column].mean() == pytest.approx(expected, abs=1e-9, nan_ok=True)
            assert precision[row, 0, column] == pytest.approx(one.ap50 or expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("seed", "images", "classes", "detections"), [*CASES, (1, 12, 3, 20)])
def test_curve_is_that_of_pycocotools(seed, images, classes, detections) -> None:
    truth, found = random_case(seed, images=images, classes=classes, detections=detections)
    result = run_cocoeval(found, truth, range(classes), [str(index) for index in range(classes)], task=DETECT)

    for threshold in (0, 5):
        expected = np.where(result.precision < 0, np.nan, result.precision)[threshold, :, :, 0]
        np.testing.assert_allclose(precision_at_recalls(result.matches, threshold), expected, atol=1e-9)


def test_model_that_finds_nothing_scores_zero_where_there_are_objects() -> None:
    truth, found = random_case(0, images=8, classes=2, detections=10)
    _, matches = score_and_match([one.top(0) for one in found], truth, ["a", "b"], task=DETECT)

    assert np.array_equal(average_precision(matches, np.ones((1, 8))), np.zeros((1, 10, 2)))
    assert np.array_equal(precision_at_recalls(matches), np.zeros((101, 2)))
