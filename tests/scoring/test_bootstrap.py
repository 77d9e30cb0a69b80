"""The bootstrap against closed forms, and against scoring the drawn images one draw after the other."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.scoring import coco_scores, paired_draws
from visionlora.scoring.bootstrap import Change, Interval, draw_images, interval_of, mean_over_classes, score_draws
from visionlora.scoring.coco import score_and_match
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

NAMES = ["a", "b", "c"]


def test_each_draw_has_as_many_images_as_there_are() -> None:
    weights = draw_images(7, draws=50)

    assert weights.shape == (50, 7) and (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, draw_images(7, draws=50))
    assert not np.array_equal(weights, draw_images(7, draws=50, seed=1))


def test_draws_equal_pycocotools_on_the_drawn_images() -> None:
    truth, found = random_case(8, images=15, classes=3, detections=12)
    weights = draw_images(15, draws=12)

    draws = score_draws(score_and_match(found, truth, NAMES, task=DETECT)[1], weights)

    for row, counts in enumerate(weights):
        again = coco_scores(np.repeat(found, counts).tolist(), np.repeat(truth, counts).tolist(), NAMES, task=DETECT)
        assert mean_over_classes(draws.ap50_95)[row] == pytest.approx(again.map50_95, abs=1e-9)
        assert mean_over_classes(draws.ap50)[row] == pytest.approx(again.map50, abs=1e-9)


def test_draws_are_of_the_same_pictures_in_whatever_order_these_were_seen() -> None:
    truth, found = random_case(4, images=12, classes=3, detections=12)
    hashes, order = [f"{index * 7 % 12:02d}" for index in range(12)], np.random.default_rng(0).permutation(12)
    straight = score_and_match(found, truth, NAMES, task=DETECT)[1]
    turned = score_and_match([found[i] for i in order], [truth[i] for i in order], NAMES, task=DETECT)[1]

    first, second = paired_draws(straight, turned, hashes, [hashes[i] for i in order])

    np.testing.assert_allclose(first.ap50_95, second.ap50_95)
    assert not np.array_equal(first.ap50_95, score_draws(turned, draw_images(12)).ap50_95)
    assert paired_draws(straight, turned, hashes, ["another", *hashes[1:]]) == (None, None)


def test_interval_holds_the_middle_95_percent() -> None:
    samples = np.append(np.arange(1001) / 1000, np.nan)

    assert interval_of(samples) == Interval(pytest.approx(0.025), pytest.approx(0.975))
    assert interval_of(np.array([np.nan])) is None


def test_interval_of_a_proportion_is_that_of_the_binomial() -> None:
    # One object an image, found in 60 of 100, nothing else: AP is the recall, read at 101 places.
    truth, found = random_case(0, images=100, classes=1, detections=1, noise=0)
    kept = [i for i, image in enumerate(truth) if len(image.class_ids)][:50]
    one = [type(truth[i])(truth[i].path, (300, 300), truth[i].boxes_xyxy[:1], truth[i].class_ids[:1]) for i in kept]
    seen = [type(found[i])(image.boxes_xyxy, [0.9], [0]).top(i % 5 < 3) for i, image in zip(kept, one, strict=True)]
    share = sum(map(len, seen)) / len(seen)

    interval = interval_of(
        score_draws(score_and_match(seen, one, ["a"], task=DETECT)[1], draw_images(len(kept))).ap50[:, 0]
    )

    half = 1.96 * (share * (1 - share) / len(kept)) ** 0.5
    assert interval.low == pytest.approx(share - half, abs=0.03)
    assert interval.high == pytest.approx(share + half, abs=0.03)


def test_better_model_is_told_from_a_worse_one_on_the_same_draws() -> None:
    truth, worse = random_case(0, images=60, classes=3, detections=8, noise=9)
    better = random_case(0, images=60, classes=3, detections=8, noise=3)[1]
    weights = draw_images(60)
    low, high = (
        score_draws(score_and_match(found, truth, NAMES, task=DETECT)[1], weights) for found in (worse, better)
    )

    paired = interval_of(mean_over_classes(high.ap50_95) - mean_over_classes(low.ap50_95))
    itself = interval_of(mean_over_classes(high.ap50_95) - mean_over_classes(high.ap50_95))

    assert paired.low > 0 and itself == Interval(0.0, 0.0)
    assert not paired.covers_zero and itself.covers_zero


def test_change_without_an_interval_is_not_measurable() -> None:
    assert not Change(0.5, None).measurable
    assert Change(0.5, Interval(0.4, 0.6)).measurable and not Change(0.5, Interval(-0.1, 0.6)).measurable


def test_a_thousand_draws_of_360_images_take_seconds() -> None:
    truth, found = random_case(10, images=360, classes=6, detections=100)
    matches = score_and_match(found, truth, list("abcdef"), task=DETECT)[1]

    started = time.monotonic()
    score_draws(matches, draw_images(360))

    assert time.monotonic() - started < 20  # about one on an idle core


def _some(detections: Detections, rng: np.random.Generator) -> Detections:
    """Three detections at random."""
    kept = rng.permutation(len(detections))[:3]
    return Detections(detections.boxes_xyxy[kept], detections.scores[kept], detections.class_ids[kept])


def test_models_of_equal_quality_are_seldom_told_apart() -> None:
    measured = 0
    for trial in range(40):
        images, found = random_case(100 + 2 * trial, images=40, classes=2, detections=4, noise=5)
        rng = np.random.default_rng(trial)
        first, second = ([_some(one, rng) for one in found] for _ in range(2))
        weights = draw_images(40, draws=200, seed=trial)
        a, b = (
            score_draws(score_and_match(one, images, NAMES[:2], task=DETECT)[1], weights) for one in (first, second)
        )
        measured += not interval_of(mean_over_classes(a.ap50_95) - mean_over_classes(b.ap50_95)).covers_zero

    assert measured <= 6  # two of 40 are expected at 95 %; seven or more have a chance of 0.3 %
