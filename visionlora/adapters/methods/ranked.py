"""What methods of low rank share: a rank and a strength."""

from __future__ import annotations

import math
from dataclasses import dataclass

from visionlora.errors import UsageError


@dataclass(frozen=True)
class Ranked:
    """Settings of a method of low rank, scaled as in [rsLoRA](https://arxiv.org/abs/2312.03732).

    Attributes:
        rank: inner dimension of a product of two factors; lowered on layers too small for it.
        alpha: strength; the product counts alpha / sqrt(rank).

    Raises:
        UsageError: rank or alpha is not positive.
    """

    rank: int = 8
    alpha: float = 4.0

    def __post_init__(self) -> None:
        check_rank(self.rank)
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not (number and math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"--alpha: expected a positive number, got {self.alpha!r}")

    def scale(self, rank: int) -> float:
        """Return the factor of the product in a layer of this rank."""
        return self.alpha / math.sqrt(rank)


def check_rank(rank: object) -> None:
    """Refuse a rank that is none.

    Raises:
        UsageError: it is no positive number.
    """
    if type(rank) is not int or not 1 <= rank < 1 << 16:
        raise UsageError(f"--rank: expected a whole number of at least 1, got {rank!r}")
