"""Which tensors an adapter must have, and of what shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from visionlora.errors import AdapterError


class Shaped(Protocol):
    """A tensor of torch or numpy."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def layer_rank(wanted: int, outputs: int, inputs: int) -> int:
    """Return `wanted`, or the largest rank whose two factors hold no more numbers than the weight itself.

    Example:
        >>> layer_rank(8, 64, 1), layer_rank(8, 64, 64)
        (1, 8)
    """
    return max(1, min(wanted, outputs * inputs // (outputs + inputs)))


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Shaped]) -> None:
    """Compare tensor names and shapes.

    Raises:
        AdapterError: they differ; the message lists every difference, up to ten.
    """
    problems = [f"{name}: missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name}: belongs to no layer" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name}: expected shape {shape}, got {tuple(tensors[name].shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:10])
        raise AdapterError(f"the adapter does not fit the model: {len(problems)} tensors differ: {shown}")
