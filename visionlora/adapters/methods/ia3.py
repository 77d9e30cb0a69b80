"""IA3: W' = (1 + s) W, one number for each output channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import scaled_channels
from visionlora.adapters.methods.method import Arrays, Factor, Matrix
from visionlora.adapters.methods.ranked import refuse_rank

if TYPE_CHECKING:
    import torch

_SCALE = "ia3_delta"


@dataclass(frozen=True)
class IA3:
    """A trained scale of each output channel, as in [IA3](https://arxiv.org/abs/2205.05638), which merging folds away.

    There it scales keys, values and the inner activations of a transformer; here the output of every adapted layer,
    before its bias. What is kept is the difference from 1.
    """

    name: ClassVar[str] = "ia3"
    tensors: ClassVar[tuple[str, ...]] = (_SCALE,)
    merges: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """How it adapts."""
        return "by a scale a channel"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return s as (outputs,)."""
        return {_SCALE: weight[:1]}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return (1 + s) W."""
        return scaled_channels(weight, tensors[_SCALE])

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return (outputs,): s does not tell the rest."""
        if set(tensors) != {_SCALE} or tensors[_SCALE].ndim != 1:
            raise ValueError(f"expected {_SCALE} with a number for each output")
        return tensors[_SCALE].shape

    def change(self, tensors: Arrays) -> Matrix:
        """Return s as (outputs, 1): with W' - W = s W it adds where changes do, whatever W is."""
        return tensors[_SCALE].astype(np.float64)[:, None]

    def summed(self, others: Sequence[IA3], rank: int | None) -> IA3:
        """Return IA3."""
        refuse_rank(self.name, rank)
        return self

    def combined(self, parts: Sequence[tuple[Factor, IA3, Arrays]]) -> dict[str, Matrix]:
        """Return the weighted sum of s."""
        return {_SCALE: np.asarray(sum(factor * method.change(own) for factor, method, own in parts))[:, 0]}

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return s zero."""
        return {_SCALE: weight.new_zeros(len(weight))}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return (1 + s) W."""
        return weight * (1 + tensors[_SCALE]).reshape(-1, *(1 for _ in weight.shape[1:]))

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: each layer has one product."""
        return
