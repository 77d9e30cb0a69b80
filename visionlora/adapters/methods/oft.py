"""OFT: W' = W R, the inputs of all outputs turned alike, in blocks: R = (I - Q)^-1 (I + Q), Q skew-symmetric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import rounded
from visionlora.adapters.methods.lora import in_format_of
from visionlora.adapters.methods.method import Arrays
from visionlora.errors import UsageError

if TYPE_CHECKING:
    import torch

_R = "oft_R"
_LARGEST = 256
"""Size of a block above which merging, which solves in one fixed order, would take minutes."""


@dataclass(frozen=True)
class OFT:
    """Orthogonal fine-tuning: [OFT](https://arxiv.org/abs/2306.07280), blocks of one size, by Cayley's transform.

    Lengths and angles of the outputs' weights stay; what they look at turns. What is kept of a block is what stands
    above the diagonal of Q, row by row. A layer of one input an output has nothing to turn.

    Attributes:
        block_size: inputs (with the kernel) that turn into each other. Where it does not divide the layer's, the next
            smaller divisor takes its place, or the next larger one where that is 1.

    Raises:
        UsageError: a block of less than 2 or more than 256.
    """

    block_size: int = 32
    name: ClassVar[str] = "oft"
    tensors: ClassVar[tuple[str, ...]] = (_R,)
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.block_size) is not int or not 2 <= self.block_size <= _LARGEST:
            raise UsageError(f"--block-size: expected a whole number from 2 to {_LARGEST}, got {self.block_size!r:.40}")

    @property
    def words(self) -> str:
        """The size of a block."""
        return f"by rotations in blocks of {self.block_size}"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return Q's numbers as (blocks, size (size - 1) / 2)."""
        inputs = math.prod(weight[1:])
        if inputs == 1:
            return {}
        size = block_of(inputs, self.block_size)
        return {_R: (inputs // size, size * (size - 1) // 2)}

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return W R."""
        if _R not in tensors:
            return weight
        rotation = _ordered_rotation(tensors[_R])
        blocks, size, _ = rotation.shape
        parts = weight.reshape(len(weight), blocks, size).astype(np.float64)
        total = np.zeros_like(parts)
        for inner in range(size):  # one input after the other, as in `ordered_product`
            total += parts[:, :, inner, None] * rotation[None, :, inner]
        return rounded(total).reshape(weight.shape)

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return Q zero."""
        return {name: weight.new_zeros(shape) for name, shape in self.shapes(tuple(weight.shape)).items()}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return W R; a gain multiplies outputs, which do not turn."""
        import torch

        if _R not in tensors:
            return weight
        above = tensors[_R]
        size = _size(above.shape[1])
        rows, columns = torch.triu_indices(size, size, 1, device=above.device)
        upper = above.new_zeros(len(above), size * size).index_copy(1, rows * size + columns, above)
        upper = upper.view(-1, size, size)
        skew, unit = upper - upper.mT, torch.eye(size, dtype=above.dtype, device=above.device)
        rotation = torch.linalg.solve_ex(unit - skew, unit + skew).result  # I - Q always has an inverse: none to check
        parts = weight.reshape(len(weight), len(above), size).transpose(0, 1)
        return in_format_of(weight, (parts @ rotation).transpose(0, 1).reshape(len(weight), -1))

    def batch(self, layers: Sequence[Any]) -> None:
        """Return nothing: the blocks are of many sizes."""
        return


def block_of(inputs: int, wanted: int) -> int:
    """Return the divisor of `inputs`, which is above 1, nearest to `wanted` from below, or from above where that is 1.

    Example:
        >>> block_of(576, 32), block_of(144, 32), block_of(9, 32), block_of(37, 32)
        (32, 24, 9, 37)
    """
    divisors = [size for size in range(2, inputs + 1) if inputs % size == 0]
    return min(divisors, key=lambda size: (size > wanted, abs(size - wanted)))


def _size(above: int) -> int:
    """Return the side of a square with so many numbers above its diagonal."""
    return (1 + math.isqrt(1 + 8 * above)) // 2


def _ordered_rotation(above: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return R, (blocks, size, size), to the same bits on every machine.

    By Gauss and Jordan in a fixed order. I - Q needs no pivoting: what is left of it after each step has the unit
    matrix or more as its symmetric part, so no pivot is below 1.
    """
    size = _size(above.shape[1])
    rows, columns = np.triu_indices(size, 1)
    skew = np.zeros((len(above), size, size))
    skew[:, rows, columns] = above
    skew[:, columns, rows] = -above
    left, right = np.eye(size) - skew, np.eye(size) + skew
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused by the layer's name
        for pivot in range(size):
            divisor = left[:, pivot, pivot, None].copy()
            left[:, pivot] /= divisor
            right[:, pivot] /= divisor
            factors = left[:, :, pivot, None].copy()
            factors[:, pivot] = 0
            left -= factors * left[:, pivot, None]
            right -= factors * right[:, pivot, None]
    return right
