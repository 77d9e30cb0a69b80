"""DoRA: W' = ||W|| (1 + m) V / ||V|| with V = W + alpha / sqrt(rank) B @ A, the norms over each output's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import ordered_norms, rounded
from visionlora.adapters.methods.lora import LoRA
from visionlora.adapters.methods.method import Arrays

if TYPE_CHECKING:
    import torch

_MAGNITUDE = "magnitude_delta"


@dataclass(frozen=True)
class DoRA:
    """Low-rank adaptation of direction and, apart from it, of magnitude: [DoRA](https://arxiv.org/abs/2402.09353).

    The norm of V counts as a constant in the gradient, as the paper has it. What is kept of a magnitude is its change
    relative to the base's, m, so that a folded batch normalization does not matter. A channel that is zero stays as
    LoRA makes it.

    Attributes:
        rank, alpha, full: as in `LoRA`.

    Raises:
        UsageError: rank or alpha is not positive, or full is negative.
    """

    rank: int = LoRA.rank
    alpha: float = LoRA.alpha
    full: int = LoRA.full
    name: ClassVar[str] = "dora"
    tensors: ClassVar[tuple[str, ...]] = (*LoRA.tensors, _MAGNITUDE)
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _ = self.direction

    @property
    def direction(self) -> LoRA:
        """LoRA of V."""
        return LoRA(self.rank, self.alpha, self.full)

    @property
    def words(self) -> str:
        """The rank, and up to what size it is full."""
        return f"{self.direction.words}, direction and magnitude apart"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return those of LoRA, and m as (outputs,)."""
        return {**self.direction.shapes(weight), _MAGNITUDE: weight[:1]}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return ||W|| (1 + m) V / ||V||."""
        turned = self.direction.merged(weight, tensors)
        factor = self._factor(weight, turned, tensors)
        return rounded(turned * factor.reshape(-1, *(1 for _ in weight.shape[1:])))

    def factor(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float64]:
        """Return ||W|| (1 + m) / ||V||, (outputs,)."""
        return self._factor(weight, self.direction.merged(weight, tensors), tensors)

    def _factor(self, weight: NDArray[np.float32], turned: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float64]:
        before, after = ordered_norms(weight), ordered_norms(turned)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((before > 0) & (after > 0), before / after, 1.0)
        return ratio * (1 + tensors[_MAGNITUDE].astype(np.float64))

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return those of LoRA, and m zero."""
        return {**self.direction.start(weight), _MAGNITUDE: weight.new_zeros(len(weight))}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return ||W|| (1 + m) V / ||V||; a gain multiplies W and V alike."""
        import torch

        turned = self.direction.adapted(weight, tensors, gain)
        axes = tuple(range(1, weight.dim()))
        before, after = (torch.linalg.vector_norm(each.detach(), dim=axes) for each in (weight, turned))
        ratio = torch.where((before > 0) & (after > 0), before / after, torch.ones_like(before))
        factor = ratio * (1 + tensors[_MAGNITUDE])
        return turned * factor.reshape(-1, *(1 for _ in axes))

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: each layer has norms of its own."""
        return
