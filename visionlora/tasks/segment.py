"""Instance segmentation: a box, a class and a mask for each object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Segment:
    """Masks. Raw predictions are two arrays, of anchors and of prototypes (arXiv 1904.02689).

    The rows of the first, (n, rows, anchors), are centre x, centre y, width, height, a score for each class, and
    `coefficients` factors; the second is (n, coefficients, S / 4, S / 4). A mask is where the sum of factors times
    prototypes is above 0, inside the box.
    """

    name: ClassVar[str] = "segment"
    coefficients: int = 32

    # -- predictions

    # -- ground truth
