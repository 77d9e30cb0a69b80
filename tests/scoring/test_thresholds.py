"""Thresholds that keep what another model does, counted on images that took no part in the fit."""

from __future__ import annotations

import numpy as np
import pytest

from visionlora.scoring.matches import IOU_THRESHOLDS, Matches
from visionlora.scoring.thresholds import Counts, refit_thresholds

IMAGES = 400


def matches(scores: np.ndarray, right: np.ndarray, *, names=("a",), columns=None) -> Matches:
    """One object an image and class; detection i lies on image i mod IMAGES."""
    columns = np.zeros(len(scores), dtype=np.int32) if columns is None else columns
    images = np.arange(len(scores)) % IMAGES
    order = np.lexsort((-scores, columns))
    every = np.repeat(right[order][:, None], len(IOU_THRESHOLDS), axis=1)
    return Matches(
        names=names,
        objects=np.ones((IMAGES, len(names)), dtype=np.int32),
        images=images[order].astype(np.int32),
        columns=columns[order],
        scores=scores[order].astype(np.float32),
        right=every,
        counted=np.ones_like(every),
    )


@pytest.fixture
def float_scores() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 400 right detections and of 400 wrong ones, which are lower."""
    rng = np.random.default_rng(0)
    return np.append(rng.permutation(np.linspace(0.05, 0.95, IMAGES)), rng.uniform(0.01, 0.5, IMAGES)), np.arange(
        2 * IMAGES
    ) < IMAGES


def test_scores_that_all_fell_keep_recall_at_a_lower_threshold(float_scores) -> None:
    scores, right = float_scores
    refit = refit_thresholds(matches(scores, right), matches(0.6 * scores, right), confidence=0.25, keep="recall")

    assert refit.thresholds[0] == pytest.approx(0.6 * 0.25, abs=0.002)
    assert refit.unfitted.misses > refit.reference.misses + 50
    assert abs(refit.fitted.misses - refit.reference.misses) <= 3
    assert refit.saved == refit.unfitted.misses - refit.fitted.misses > 50
    assert refit.reference.found + refit.reference.misses == IMAGES and not refit.unreachable


def test_scores_that_all_rose_keep_precision_at_a_higher_threshold(float_scores) -> None:
    scores, right = float_scores
    refit = refit_thresholds(matches(scores, right), matches(1.05 * scores, right), confidence=0.25, keep="precision")

    # The lowest threshold that is precise enough: a little lower where precision is by chance higher there.
    assert 0.23 < refit.thresholds[0] <= 1.05 * 0.25 + 0.01
    precision = refit.reference.found / (refit.reference.found + refit.reference.false_alarms)
    assert refit.fitted.found / (refit.fitted.found + refit.fitted.false_alarms) == pytest.approx(precision, abs=0.02)


@pytest.mark.parametrize("keep", ["recall", "precision"])
def test_an_equal_model_keeps_its_threshold(keep, float_scores) -> None:
    same = matches(*float_scores)

    refit = refit_thresholds(same, same, confidence=0.25, keep=keep)

    assert refit.reference == refit.unfitted == refit.fitted and refit.thresholds == (0.25,)


def test_each_class_gets_its_own_threshold(float_scores) -> None:
    scores, right = float_scores
    columns = np.repeat(np.array([0, 1], dtype=np.int32), len(scores))
    both, twice = np.tile(scores, 2), np.tile(right, 2)
    moved = np.concatenate([0.6 * scores, 0.9 * scores])

    refit = refit_thresholds(
        matches(both, twice, names=("a", "b"), columns=columns),
        matches(moved, twice, names=("a", "b"), columns=columns),
        confidence=0.25,
        keep="recall",
    )

    assert refit.thresholds == pytest.approx((0.15, 0.225), abs=0.002)


@pytest.mark.parametrize(
    ("keep", "factor", "nearest"), [("recall", 0.1, 0.125), ("precision", 1.0, 0.625)], ids=["recall", "precision"]
)
def test_a_class_that_cannot_be_kept_is_named_and_has_the_nearest(keep, factor, nearest, float_scores) -> None:
    """Scores that fell to a tenth; and a model that is never right."""
    scores, right = float_scores
    poor = matches(factor * scores, right & (keep == "recall"))

    refit = refit_thresholds(matches(scores, right), poor, confidence=0.25, keep=keep)

    assert refit.unreachable == ("a",) and refit.thresholds == (nearest,)


@pytest.mark.parametrize("keep", ["recall", "precision"])
def test_a_class_of_which_the_reference_finds_nothing_keeps_its_threshold(keep, float_scores) -> None:
    scores, right = float_scores
    nothing = matches(np.full(3, 0.9), np.zeros(3, dtype=bool))

    refit = refit_thresholds(nothing, matches(scores, right), confidence=0.25, keep=keep)

    assert refit.thresholds == (0.25,) and refit.reference == Counts(0, IMAGES, 3)
