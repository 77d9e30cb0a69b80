"""Which groups of layers go back to float: the order, and how many of them it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from visionlora.quantization.groups import LayerGroup

_FLOAT_BYTES = 4


def order_groups(
    groups: Sequence[LayerGroup], errors: NDArray[np.float64], *, room_bytes: float, weight_bytes: float = 1.0
) -> tuple[LayerGroup, ...]:
    """Return groups in the order in which they go back to float: the most error for the least time first.

    Args:
        groups: all of them.
        errors: (groups,), what each adds.
        room_bytes: by how much the file may grow. A group that does not fit beside those before it is left out, and so
            is one without error.
        weight_bytes: what a weight takes as long as it is not float.
    """
    gain = [error / max(group.multiply_adds, 1) for group, error in zip(groups, errors, strict=True)]
    ordered = []
    for index in np.argsort(-np.array(gain), kind="stable").tolist():
        added = (_FLOAT_BYTES - weight_bytes) * groups[index].weights
        if errors[index] > 0 and added <= room_bytes:
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
