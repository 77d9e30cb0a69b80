"""Learned ranges: exact where they begin and end, and not to be broken by what training does to them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visionlora.errors import QuantizationError
from visionlora.fake_quant import LearnedRanges, RangeSpec, fake_quantize
from visionlora.fake_quant.ranges import MOST
from visionlora.int8.ranges import ActivationRange

SPEC = RangeSpec(("a",), ("a",), 0.02, 90)


@given(st.floats(2.0**-40, 2.0**20, width=32), st.integers(0, 255))
def test_bounds_give_back_scale_and_zero_point_to_the_last_bit(scale, zero) -> None:
    low, high = RangeSpec(("a",), ("a",), scale, zero).bounds
    chosen = ActivationRange(low, high)
    assert float(chosen.scale) == scale and int(chosen.zero_point) == zero
    again = SPEC.between(low, high)
    assert (again.scale, again.zero_point) == (scale, zero)


def test_ranges_begin_as_calibrated() -> None:
    specs = [SPEC, RangeSpec(("b",), ("b",), 1 / 3, 0), RangeSpec(("c",), ("c",), 1 / 255, 0, learned=False)]
    expected = [(float(torch.tensor(spec.scale)), spec.zero_point) for spec in specs]
    assert list(LearnedRanges(specs).values()) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_no_value_of_the_parameters_breaks_a_range(value) -> None:
    ranges = LearnedRanges([SPEC, RangeSpec(("b",), ("b",), 0.5, 0)])
    with torch.no_grad():
        ranges.log_factor.fill_(value)
        ranges.shift.fill_(value)
    for (scale, zero), start in zip(ranges.values(), (0.02, 0.5), strict=True):
        factor = math.exp(MOST) * (1 + 1e-5)
        assert start / factor <= scale <= start * factor and 0 <= zero <= 255


@pytest.mark.parametrize(
    "x",
    [torch.zeros(64), torch.full((64,), 3.7), torch.full((64,), -1e9), torch.full((64,), 1e-20)],
    ids=["all zero", "constant", "far below", "almost nothing"],
)
def test_training_on_dead_and_constant_activations_keeps_ranges_sound(x) -> None:
    ranges = LearnedRanges([SPEC])
    optimizer = torch.optim.AdamW(ranges.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ((scale, zero),) = ranges()
        (fake_quantize(x, scale, zero) ** 2).sum().backward()
        optimizer.step()
    ((scale, zero),) = ranges.values()
    assert 0.02 / 8.01 <= scale <= 0.02 * 8.01 and 0 <= zero <= 255
    assert torch.isfinite(fake_quantize(x, torch.tensor(scale), torch.tensor(float(zero)))).all()


def test_learning_narrows_a_range_that_is_too_wide() -> None:
    x = torch.rand(4096, generator=torch.Generator().manual_seed(0))
    ranges = LearnedRanges([RangeSpec(("a",), ("a",), 4 / 255, 0)])  # four times what is needed
    optimizer = torch.optim.Adam(ranges.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        ((scale, zero),) = ranges()
        loss = ((fake_quantize(x, scale, zero) - x) ** 2).sum()
        loss.backward()
        optimizer.step()
    ((scale, zero),) = ranges.values()
    assert 0.8 / 255 < scale < 1.3 / 255 and zero == 0


def test_a_range_that_begins_at_zero_stays_there_and_known_ranges_stay_whole() -> None:
    ranges = LearnedRanges([RangeSpec(("a",), ("a",), 0.02, 0), RangeSpec(("b",), ("b",), 0.02, 90, learned=False)])
    with torch.no_grad():
        ranges.log_factor.fill_(0.5)
        ranges.shift.fill_(0.3)
    (first, second) = ranges.values()
    assert first[1] == 0 and first[0] > 0.03
    assert second == (float(torch.tensor(0.02)), 90)


def test_fixed_ranges_are_no_parameters() -> None:
    assert list(LearnedRanges([SPEC], learned=False).parameters()) == []


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 3), (math.nan, 3), (-1.0, 3), (1.0, 256), (1.0, -1)])
def test_impossible_ranges_are_refused(scale, zero) -> None:
    with pytest.raises(QuantizationError, match="range of a"):
        RangeSpec(("a",), ("a",), scale, zero)
