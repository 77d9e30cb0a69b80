"""BitFit: the weights stay, biases alone are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.methods.method import Arrays, Factor, Matrix
from visionlora.adapters.methods.ranked import refuse_rank

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BitFit:
    """Biases alone, as in [BitFit](https://arxiv.org/abs/2106.10199): every method trains them, this one nothing else.

    With the recipe `far` it trains the scale of batch normalization too.
    """

    name: ClassVar[str] = "bitfit"
    tensors: ClassVar[tuple[str, ...]] = ()
    merges: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """How it adapts."""
        return "by their biases alone"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return nothing: no weight changes."""
        return {}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return W."""
        return weight

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return nothing: no tensor tells it."""
        return ()

    def change(self, tensors: Arrays) -> Matrix:
        """Return nothing: biases alone add."""
        return np.zeros((0, 0))

    def summed(self, others: Sequence[BitFit], rank: int | None) -> BitFit:
        """Return BitFit."""
        refuse_rank(self.name, rank)
        return self

    def combined(self, parts: Sequence[tuple[Factor, BitFit, Arrays]]) -> dict[str, Matrix]:
        """Return nothing."""
        return {}

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return nothing."""
        return {}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return W."""
        return weight

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: nothing is computed."""
        return
