"""Which convolutions get int4 weights, and how many of a channel's weights share a multiplier: shapes only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

GROUP = 16
"""Largest number of neighbouring weights of an output channel that share a multiplier."""
_SMALLEST_GROUP = 8  # below, the multipliers take a quarter of the bits
_FEWEST_INPUTS = 4  # depthwise layers and the one that reads the picture have fewer
INT8_SHARE = 0.08
"""Share of all weights that stays int8: those of the smallest layers.

They are the first layers and the last ones, whose errors nothing averages out, and cost 1/100 of the float file.
"""


def int4_groups(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return how many weights share a multiplier in each layer that gets int4 weights; the others stay int8.

    Args:
        shapes: of all weights, (outputs, inputs / groups, ...), by the name of the layer in the order of the graph.
    """
    room = INT8_SHARE * sum(map(math.prod, shapes.values()))
    groups = {}
    for name, shape in sorted(shapes.items(), key=lambda layer: math.prod(layer[1])):
        room -= math.prod(shape)
        group = group_size(shape)
        if room < 0 and group is not None:
            groups[name] = group
    return {name: groups[name] for name in shapes if name in groups}


def group_size(shape: Sequence[int]) -> int | None:
    """Return the largest group of up to `GROUP` that a channel's weights can be cut into; None for int8 weights.

    Args:
        shape: (outputs, inputs / groups, ...).
    """
    row = math.prod(shape[1:])
    largest = max(size for size in range(1, GROUP + 1) if row % size == 0)
    return largest if largest >= _SMALLEST_GROUP and shape[1] >= _FEWEST_INPUTS else None
