"""Values are counted in one pass, whatever their range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionlora.errors import QuantizationError
from visionlora.int8.histogram import Histogram


def histogram_of(values) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, dtype=np.float32))
    return histogram


@given(st.floats(min_value=2**-23, max_value=2**15.9), st.booleans())
def test_a_value_is_known_to_a_thousandth_whatever_its_size(size, negative):
    value = -size if negative else size

    points, counts = histogram_of([value, value]).points()

    assert counts.tolist() == [2]
    assert points[0] == pytest.approx(value, rel=1e-3)


def test_an_outlier_costs_the_other_values_no_resolution():
    values = np.random.default_rng(0).normal(0, 1, 2000)

    alone, _ = histogram_of(values).points()
    beside, _ = histogram_of([*values, 6e4]).points()

    np.testing.assert_array_equal(beside[:-1], alone)
    assert len(alone) > 1500 and np.all(np.diff(alone) > 0)


def test_counting_in_parts_is_counting_together():
    first, second = np.random.default_rng(0).normal(0, 3, (2, 5, 7))
    parts = histogram_of(first)
    parts.add(second)
    other = histogram_of(first)
    other.add_histogram(histogram_of(second))

    for one in (parts, other):
        for got, wanted in zip(one.points(), histogram_of([first, second]).points(), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_zeros_of_both_signs_and_the_smallest_numbers_are_zero():
    points, counts = histogram_of([0.0, -0.0, 1e-30, -1e-30, 1e-45]).points()

    assert (points.tolist(), counts.tolist()) == ([0.0], [5])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        histogram_of([1.0, wrong])
