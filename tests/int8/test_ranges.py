"""Ranges lose less than MinMax does, and are finite whatever was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantization.graphs import build, node, rounded, run
from visionlora.errors import QuantizationError
from visionlora.int8.histogram import Histogram
from visionlora.int8.ranges import ActivationRange, choose_range, observed_range, silu

finite = st.floats(min_value=0, max_value=1e6, allow_subnormal=False)


def histogram_of(values) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, dtype=np.float32))
    return histogram


@given(finite, finite)
def test_scale_and_zero_point_are_valid_for_any_range(below, above):
    chosen = ActivationRange(-below, above)

    levels = chosen.levels()

    assert np.isfinite(chosen.scale) and chosen.scale > 0
    assert levels[chosen.zero_point] == 0
    if below + above > 1e-30:
        assert levels[0] == pytest.approx(-below, abs=0.51 * float(chosen.scale))
        assert levels[-1] == pytest.approx(above, abs=0.51 * float(chosen.scale))


def test_rounding_is_that_of_quantize_linear():
    chosen = ActivationRange(-1.37, 2.9)
    values = np.random.default_rng(0).uniform(-3, 4, (1, 3, 16, 16)).astype(np.float32)
    constants = {"scale": np.asarray(chosen.scale), "zero": np.asarray(chosen.zero_point)}

    levels = run(build([node("QuantizeLinear", "images scale zero", "output0")], constants), values)

    np.testing.assert_array_equal(chosen.quantize(values), levels)


@pytest.mark.parametrize("bounds", [(0.1, 1), (-1, -0.1), (-np.inf, 1), (0, np.nan)])
def test_a_range_without_zero_or_end_is_refused(bounds):
    with pytest.raises(QuantizationError, match="finite bounds around zero"):
        ActivationRange(*bounds)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.0, 0.0], 0, 0), ([3.5] * 9, 0, 3.5), ([-3.5] * 9, -3.5, 0), ([1e-30], 0, 0)],
    ids=["zero", "positive", "negative", "all but zero"],
)
def test_a_constant_activation_has_a_finite_scale_and_is_represented(values, low, high):
    chosen = choose_range(histogram_of(values))

    assert np.isfinite(chosen.scale) and chosen.scale > 0
    assert (chosen.low, chosen.high) == pytest.approx((low, high), rel=0.05)
    np.testing.assert_allclose(rounded(np.float32(values), chosen), values, rtol=0.02, atol=1e-20)


@pytest.mark.parametrize("outliers", [[900.0], [-900.0], [900.0, -900.0]], ids=["high", "low", "both"])
def test_outliers_do_not_spend_the_levels(outliers):
    values = np.random.default_rng(0).normal(0, 1, 200_000)

    chosen = choose_range(histogram_of([*values, *outliers]))

    def lost(activations: ActivationRange) -> float:
        return float(np.mean(np.abs(rounded(values, activations) - values) ** 2))

    assert chosen.high - chosen.low < 450
    assert lost(chosen) < 0.3 * lost(observed_range(histogram_of([*values, *outliers])))


def test_before_silu_the_range_is_chosen_for_what_silu_gives():
    values = np.concatenate([np.random.default_rng(0).normal(-9, 4, 50_000), np.linspace(0, 4, 5000)])
    histogram = histogram_of(values)

    plain, chosen = choose_range(histogram), choose_range(histogram, after=silu)

    def lost(activations: ActivationRange) -> float:
        return float(np.mean((silu(rounded(values, activations)) - silu(values)) ** 2))

    assert plain.low < -16 < -10 < chosen.low < -2
    assert lost(chosen) < 0.3 * lost(plain)


@given(st.lists(st.floats(min_value=-100, max_value=100, width=32), min_size=1, max_size=30))
def test_a_chosen_range_is_never_worse_than_the_observed_one(values):
    histogram = histogram_of(values)
    points, counts = histogram.points()

    def lost(activations: ActivationRange) -> float:
        return float(np.sum(np.abs(activations.levels()[activations.quantize(points)] - points) ** 3.0 * counts))

    assert lost(choose_range(histogram)) <= lost(observed_range(histogram)) * (1 + 1e-5) + 1e-12


def test_silu_is_x_times_sigmoid_without_overflow():
    values = np.float32([-1e4, -90, -1, 0, 1, 90, 1e4])

    np.testing.assert_allclose(silu(values), [0, 0, -0.26894143, 0, 0.73105857, 90, 1e4], rtol=1e-6)
