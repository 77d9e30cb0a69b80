"""Which groups of layers get finer numbers: the order, and how many of them it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from visionlora.quantization.groups import LayerGroup


def order_groups(
    groups: Sequence[LayerGroup],
    gains: NDArray[np.float64],
    costs: Sequence[float],
    *,
    room_bytes: float,
    added_bytes: float,
) -> tuple[LayerGroup, ...]:
    """Return groups in the order in which they get finer numbers: the most gain for the least cost first.

    Args:
        groups: all of them.
        gains: (groups,), how much less error each brings with finer numbers.
        costs: (groups,), what that costs.
        room_bytes: by how much the file may grow. A group that does not fit beside those before it is left out, and so
            is one without gain.
        added_bytes: how many more each weight takes with finer numbers.
    """
    ordered = []
    for index in np.argsort(-gains / np.maximum(costs, 1), kind="stable").tolist():
        added = added_bytes * groups[index].weights
        if gains[index] > 0 and added <= room_bytes:
            ordered.append(groups[index])
            room_bytes -= added
    return tuple(ordered)


def fewest_that_hold(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number in 1 to `most` that holds, with few questions; None if none of those asked does.

    It asks for 1, 2, 4 and so on, at last for `most`, and then halves the distance between the last that failed and
    the first that held. That is the smallest where every number above one that holds does too.

    Args:
        most: the highest number.
        holds: asked once for each number.
    """
    failed, count = 0, 1
    while count <= most and not holds(count):
        failed, count = count, min(2 * count, most) if count < most else most + 1
    if count > most:
        return None
    while count - failed > 1:
        middle = (failed + count) // 2
        if holds(middle):
            count = middle
        else:
            failed = middle
    return count
