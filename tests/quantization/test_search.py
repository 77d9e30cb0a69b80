"""Which groups get finer numbers first, and how many."""

from __future__ import annotations

import numpy as np
import pytest

from visionlora.quantization.groups import LayerGroup
from visionlora.quantization.search import fewest_that_hold, order_groups

SMALL, COSTLY, LARGE, HARMLESS = (
    LayerGroup(name, (name,), multiply_adds, weights)
    for name, multiply_adds, weights in (("small", 10, 10), ("costly", 1000, 10), ("large", 10, 900), ("none", 1, 1))
)
ALL = (COSTLY, SMALL, HARMLESS, LARGE)
GAINS = np.array([5.0, 1.0, 0.0, 2.0])
TIMES = [group.multiply_adds for group in ALL]


def test_the_most_error_for_the_least_time_comes_first() -> None:
    order = order_groups(ALL, GAINS, TIMES, room_bytes=1e6, added_bytes=3)

    assert order == (LARGE, SMALL, COSTLY)  # 0.2, 0.1 and 0.005 a multiply-add; one without error stays int8


def test_a_group_that_would_make_the_file_too_large_is_left_out() -> None:
    order = order_groups(ALL, GAINS, TIMES, room_bytes=3 * 20, added_bytes=3)

    assert order == (SMALL, COSTLY)


@pytest.mark.parametrize("most", range(13))
def test_the_fewest_that_hold_are_found_with_few_questions(most) -> None:
    for fewest in range(1, most + 3):
        asked: list[int] = []

        def holds(count: int, fewest: int = fewest, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= fewest

        assert fewest_that_hold(most, holds) == (fewest if fewest <= most else None)
        assert len(asked) == len(set(asked)) <= 7 and all(1 <= count <= most for count in asked)
