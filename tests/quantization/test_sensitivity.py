"""The error of a prediction, and which layers it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from tests.quantization.graphs import IMAGE_SIZE
from tests.quantization.labelled import outlying_detector
from visionlora.int8.plan import plan_quantization
from visionlora.int8.scheme import X86
from visionlora.quantization import calibrate
from visionlora.quantization.groups import layer_groups
from visionlora.quantization.sensitivity import group_errors, prediction_error
from visionlora.tasks import DETECT


def prediction(*anchors: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """One output (1, 4 + classes, anchors) of rows of centre, size and scores."""
    return (np.array(anchors, dtype=np.float32).T[None],)


def test_equal_predictions_have_no_error() -> None:
    same = [prediction((10, 10, 4, 4, 0.9, 0.2), (30, 30, 4, 4, 0.1, 0.7))]

    assert prediction_error(DETECT, same, same) == pytest.approx([0, 0])


def test_errors_of_score_and_box_count_by_the_square_of_the_score() -> None:
    wanted = [prediction((10, 10, 4, 4, 0.8, 0.0), (30, 30, 4, 4, 0.4, 0.5))]
    got = [prediction((12, 10, 4, 4, 0.8, 0.0), (30, 30, 4, 4, 0.3, 0.5))]  # the first box half beside: IoU 1/3

    error = prediction_error(DETECT, wanted, got)

    assert error[0] == pytest.approx((0.8**2 * (2 / 3) ** 2 + 0.4**2 * 0.1**2) / (0.8**2 + 0.4**2))
    assert error[1] == pytest.approx(0, abs=1e-12)


def test_a_class_without_scores_has_no_error() -> None:
    blind = [prediction((10, 10, 4, 4, 0.0))]

    assert prediction_error(DETECT, blind, [prediction((10, 10, 8, 8, 0.3))]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("outlier", "guilty"), [("stem", {"stem", "narrow"}), ("narrow", {"narrow", "mix"})], ids=["early", "late"]
)
def test_the_error_is_found_on_both_sides_of_an_outlier(outlier, guilty) -> None:
    """The layer that writes the tensor and the layer that reads it both see it in 256 levels."""
    model = outlying_detector(outlier)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0, 1, (1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32) for _ in range(4)]
    recipe = calibrate(model, inputs, X86)
    groups = layer_groups(model, plan_quantization(model.graph).convs, IMAGE_SIZE)

    errors = group_errors(DETECT, model, recipe, groups, inputs).mean(axis=1)

    share = dict(zip((group.name for group in groups), errors / errors.sum(), strict=True))
    assert {name for name, part in share.items() if part > 0.1} == guilty
