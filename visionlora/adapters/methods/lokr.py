"""LoKr: W' = W + alpha / sqrt(rank) C (x) (B @ A), a Kronecker product of a small and a low-rank matrix."""

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
from visionlora.errors import UsageError

if TYPE_CHECKING:
    import torch

_C, _B, _A = "lokr_w1", "lokr_w2_a", "lokr_w2_b"


@dataclass(frozen=True)
class LoKr(Ranked):
    """Low-rank Kronecker product, of [KronA](https://arxiv.org/abs/2212.10650), by the names that LyCORIS gives it.

    Outputs and inputs are each split into two factors as equal as they can be; C takes the smaller ones, B @ A the
    larger ones with the kernel. It is the smallest of the methods that change a weight's directions.

    Attributes:
        rank: of B @ A; lowered where it is too small for it.
        alpha: strength; the product counts alpha / sqrt(rank).

    Raises:
        UsageError: rank or alpha is not positive.
    """

    name: ClassVar[str] = "lokr"
    tensors: ClassVar[tuple[str, ...]] = (_C, _B, _A)
    merges: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """The rank."""
        return f"by Kronecker products of rank {self.rank}"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return C as (small outputs, small inputs), B as (large outputs, rank), A as (rank, large inputs x kernel)."""
        (small_out, large_out), (small_in, large_in) = split(weight[0]), split(weight[1])
        inputs = large_in * math.prod(weight[2:])
        rank = layer_rank(self.rank, large_out, inputs)
        return {_C: (small_out, small_in), _B: (large_out, rank), _A: (rank, inputs)}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return W + scale C (x) (B @ A)."""
        small, large = tensors[_C].astype(np.float64), ordered_product(tensors[_B], tensors[_A])
        large = large * (self.scale(len(tensors[_A])))
        change = small[:, None, :, None] * large[None, :, None, :]
        return weight + rounded(change).reshape(weight.shape)

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return (outputs, numbers of an output): how inputs and kernel make these up the factors do not tell."""
        given = {name: tensor.shape for name, tensor in tensors.items()}
        if set(given) != set(self.tensors) or {*map(len, given.values())} != {2}:
            raise ValueError(f"expected {', '.join(self.tensors)}, got {', '.join(sorted(given)) or 'none'}")
        (small_out, small_in), (large_out, rank), (own_rank, inputs) = given[_C], given[_B], given[_A]
        outputs, expected = small_out * large_out, layer_rank(self.rank, large_out, inputs)
        if split(outputs) != given[_C][:1] + given[_B][:1] or not rank == own_rank == expected:
            raise ValueError(f"expected factors of {outputs} outputs, of rank {expected}, got {given}")
        return outputs, small_in * inputs

    def change(self, tensors: Arrays) -> Matrix:
        """Return scale C (x) (B @ A)."""
        own = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        return self.scale(len(own[_A])) * np.kron(own[_C], own[_B] @ own[_A]).astype(np.float64)

    def summed(self, others: Sequence[LoKr], rank: int | None) -> LoKr:
        """Return LoKr where one adapter is scaled."""
        refuse_sum(self.name, others, rank)
        return self

    def combined(self, parts: Sequence[tuple[Factor, LoKr, Arrays]]) -> dict[str, Matrix]:
        """Return the tensors with C multiplied."""
        ((factor, _, own),) = parts
        if isinstance(factor, np.ndarray):
            raise UsageError("--model: expected the base: with its normalization trained too, it becomes a lora")
        return {name: tensor.astype(np.float64) * (factor if name == _C else 1) for name, tensor in own.items()}

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return C and A uniform (Kaiming), B zero."""
        import torch

        found = {
            name: torch.zeros(shape, device=weight.device) for name, shape in self.shapes(tuple(weight.shape)).items()
        }
        for name in (_C, _A):
            torch.nn.init.kaiming_uniform_(found[name], a=math.sqrt(5))
        return found

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return W + scale gain (C (x) (B @ A))."""
        large = (tensors[_B] @ tensors[_A]) * (self.scale(len(tensors[_A])))
        change = (tensors[_C][:, None, :, None] * large[None, :, None, :]).reshape(len(weight), -1)
        return weight + in_format_of(weight, change if gain is None else change * gain)

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: the products are of many shapes."""
        return


def split(number: int) -> tuple[int, int]:
    """Return two factors of a number, as equal as can be, the smaller one first.

    Example:
        >>> split(64), split(80), split(7)
        ((8, 8), (8, 10), (1, 7))
    """
    small = next(each for each in range(math.isqrt(number), 0, -1) if number % each == 0)
    return small, number // small
