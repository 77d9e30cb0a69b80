"""IA3: W' = (1 + s) W, one number for each output channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import scaled_channels
from visionlora.adapters.methods.method import Arrays

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
