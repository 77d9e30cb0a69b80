"""Differences between models are those of their scores, and their intervals those of the same draws."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.scoring.bootstrap import Interval, draw_images
from visionlora.scoring.detect_split import SplitDetections
from visionlora.scoring.model_scores import difference, judge
from visionlora.tasks import DETECT

NAMES = ("a", "b", "c")


def _judge(found, images, classes=NAMES, weights=None):
    return judge(SplitDetections(tuple(found), classes, task=DETECT), images, NAMES, weights=weights, confidence=0.25)


def _difference(one, two):
    return difference(one.scores, two.scores, draws=one.draws, other_draws=two.draws, to="two")


@pytest.fixture(scope="module")
def pair():
    images, found = random_case(0, images=40, classes=3, detections=8, noise=4)
    other = random_case(0, images=40, classes=3, detections=8, noise=9)[1]
    weights = draw_images(40, draws=200)
    return _judge(found, images, weights=weights), _judge(other, images, weights=weights)


def test_difference_is_that_of_the_scores(pair) -> None:
    one, two = pair

    apart = _difference(one, two)

    assert apart.map50_95.difference == pytest.approx(one.scores.map50_95 - two.scores.map50_95)
    assert apart.map50.difference == pytest.approx(one.scores.map50 - two.scores.map50)
    for change, a, b in zip(apart.per_class, one.scores.per_class, two.scores.per_class, strict=True):
        assert (change.name, change.change.difference) == (a.name, pytest.approx(a.ap50_95 - b.ap50_95))
        assert change.change.interval.low < change.change.interval.high


def test_intervals_surround_the_scores_and_mirror_when_turned(pair) -> None:
    one, two = pair
    there, back = _difference(one, two).map50_95, _difference(two, one).map50_95

    assert one.scores.interval.low < one.scores.map50_95 < one.scores.interval.high
    assert all(each.interval.low < each.ap50_95 < each.interval.high for each in one.scores.per_class)
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))


def test_model_against_itself_is_exactly_nothing(pair) -> None:
    apart = _difference(pair[0], pair[0])

    assert (apart.map50_95.difference, apart.map50_95.interval) == (0, Interval(0, 0))
    assert not apart.map50_95.measurable


def test_models_are_compared_on_the_classes_that_both_know() -> None:
    images, found = random_case(0, images=30, classes=3, detections=8)
    weights = draw_images(30, draws=50)
    whole, part = _judge(found, images, weights=weights), _judge(found, images, ("b", "c"), weights)

    apart = _difference(part, whole)

    assert apart.classes == ("b", "c") and part.scores.mean_over(["b", "c"]) == whole.scores.mean_over(["b", "c"])
    assert apart.map50_95.interval == Interval(0, 0)


def test_objects_of_unknown_classes_are_no_misses() -> None:
    images, found = random_case(0, images=10, classes=3, detections=8)

    point = _judge(found, images, ("b",)).operating

    assert point.found + point.misses == sum(int((image.class_ids == 1).sum()) for image in images)
    assert {cell.truth for cell in point.confusion} <= {"b", None}


def test_model_without_a_shared_class_is_not_judged() -> None:
    images, found = random_case(0, images=3, classes=3, detections=8)

    assert _judge(found, images, ()) is None


def test_without_draws_there_are_no_intervals(pair) -> None:
    images, found = random_case(0, images=1, classes=3, detections=8)
    alone = _judge(found, images)

    assert alone.scores.interval is None and _difference(alone, alone).map50_95.interval is None
    assert np.isfinite(alone.scores.map50_95)
