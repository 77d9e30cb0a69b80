"""Oriented boxes: a rotated box and a class for each object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class OrientedBoxes:
    """Rotated boxes. The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and the
    angle in radians.
    """

    name: ClassVar[str] = "obb"

    # -- predictions

    # -- ground truth
