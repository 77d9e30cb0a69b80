"""What methods of low rank share: a rank and a strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def refuse_rank(name: str, rank: int | None) -> None:
    """Refuse to bring adapters to a rank whose method, called `name`, has none.

    Raises:
        UsageError: a rank is asked for.
    """
    if rank is not None:
        raise UsageError(f"--rank: the method {name} has none to change; pass --model BASE for a lora of that rank")


def refuse_sum(name: str, others: Sequence[object], rank: int | None) -> None:
    """Refuse what is no adapter of a method called `name` in general; one that is only scaled is.

    Raises:
        UsageError: there are others to be added, or a rank is asked for.
    """
    if others or rank is not None:
        what = "a sum" if others else "one brought to another rank"
        raise UsageError(f"--model: expected the base, since of adapters of {name} {what} is none: it becomes a lora")


def check_rank(rank: object) -> None:
    """Refuse a rank that is none.

    Raises:
        UsageError: it is no positive number.
    """
    if type(rank) is not int or not 1 <= rank < 1 << 16:
        raise UsageError(f"--rank: expected a whole number of at least 1, got {rank!r}")
