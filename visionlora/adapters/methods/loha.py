"""LoHa: W' = W + alpha / sqrt(rank) (B1 @ A1) * (B2 @ A2), a product number by number of two low-rank ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import ordered_product, rounded
from visionlora.adapters.methods.lora import in_format_of
from visionlora.adapters.methods.method import Arrays, Factor, Matrix
from visionlora.adapters.methods.ranked import Ranked, refuse_sum
from visionlora.adapters.shapes import layer_rank

if TYPE_CHECKING:
    import torch

_B1, _A1, _B2, _A2 = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"


@dataclass(frozen=True)
class LoHa(Ranked):
    """Low-rank Hadamard product, of [FedPara](https://arxiv.org/abs/2108.06098), by the names that LyCORIS gives it.

    With twice the numbers of LoRA at the same rank the change has a rank of up to its square.

    Attributes:
        rank: of each of the two products; lowered on layers too small for it.
        alpha: strength; their product counts alpha / sqrt(rank).

    Raises:
        UsageError: rank or alpha is not positive.
    """

    name: ClassVar[str] = "loha"
    tensors: ClassVar[tuple[str, ...]] = (_B1, _A1, _B2, _A2)
    merges: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """The rank."""
        return f"by two products of rank {self.rank}"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return B1 and B2 as (outputs, rank), A1 and A2 as (rank, numbers of an output)."""
        outputs, inputs = weight[0], math.prod(weight[1:])
        rank = layer_rank(self.rank, outputs, inputs)
        return {_B1: (outputs, rank), _A1: (rank, inputs), _B2: (outputs, rank), _A2: (rank, inputs)}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return W + scale (B1 @ A1) * (B2 @ A2)."""
        first, second = ordered_product(tensors[_B1], tensors[_A1]), ordered_product(tensors[_B2], tensors[_A2])
        scale = self.scale(len(tensors[_A1]))
        return weight + rounded(first * second * scale).reshape(weight.shape)

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return (outputs, numbers of an output): how inputs and kernel make these up the factors do not tell."""
        given = {name: tensor.shape for name, tensor in tensors.items()}
        if set(given) != set(self.tensors) or min(map(len, given.values())) < 2:
            raise ValueError(f"expected {', '.join(self.tensors)}, got {', '.join(sorted(given)) or 'none'}")
        weight = (given[_B1][0], given[_A1][1])
        if self.shapes(weight) != given:
            raise ValueError(f"expected {self.shapes(weight)}, got {given}")
        return weight

    def change(self, tensors: Arrays) -> Matrix:
        """Return scale (B1 @ A1) * (B2 @ A2)."""
        own = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        return self.scale(len(own[_A1])) * (own[_B1] @ own[_A1]) * (own[_B2] @ own[_A2])

    def summed(self, others: Sequence[LoHa], rank: int | None) -> LoHa:
        """Return LoHa where one adapter is scaled."""
        refuse_sum(self.name, others, rank)
        return self

    def combined(self, parts: Sequence[tuple[Factor, LoHa, Arrays]]) -> dict[str, Matrix]:
        """Return the tensors with B1 multiplied."""
        ((factor, _, own),) = parts
        return {name: tensor.astype(np.float64) * (factor if name == _B1 else 1) for name, tensor in own.items()}

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return B2 zero, the others normal, with the deviations of LyCORIS."""
        import torch

        deviations = {_B1: 0.1, _A1: 1.0, _B2: 0.0, _A2: 0.1}
        shapes = self.shapes(tuple(weight.shape))
        return {name: torch.randn(shape, device=weight.device) * deviations[name] for name, shape in shapes.items()}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return W + scale gain (B1 @ A1) * (B2 @ A2)."""
        left = tensors[_B2] if gain is None else tensors[_B2] * gain
        change = (tensors[_B1] @ tensors[_A1]) * (left @ tensors[_A2])
        return weight + in_format_of(weight, change * (self.scale(len(tensors[_A1]))))

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: the products are of many shapes."""
        return
