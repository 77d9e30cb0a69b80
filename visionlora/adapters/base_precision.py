"""The precisions that a frozen base can be kept in: how its weights are rounded, to the same bits on every machine.

An adapter that was trained on a rounded base belongs to that one, so merging on a workstation and patching on a device
must arrive at the very weights that training saw. Libraries that round to NF4 need torch, and take means, whose order
of adding is another on each processor; here a step is one number by one number, or the largest of some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FLOAT32 = "float32"
"""The precision of a base that is not rounded."""
LEAST = 4096
"""A layer of fewer weights stays float32: together these are under a hundredth of a detector."""
Packed = Mapping[str, NDArray[Any]]
"""What a rounded weight is kept as: `codes`, and what they count, by name."""


class Precision(Protocol):
    """A way to keep a weight in fewer bits.

    A weight is of shape (outputs, inputs, kernel...). torch is imported where training calls it alone, because a device
    that patches an adapter into its base rounds too.
    """

    def pack(self, weight: NDArray[np.float32]) -> Packed:
        """Return a weight in fewer bits."""
        ...

    def weight(self, packed: Packed, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the weight of this shape that was packed, rounded."""
        ...

    def bring_back(self, packed: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        """Return the same in torch, to the bit, on any device; nothing waits for a GPU."""
        ...


class Half:
    """IEEE half precision. Its codes are the bits as int16, which no trainer casts to float."""

    def pack(self, weight: NDArray[np.float32]) -> Packed:
        """Return `codes` in the shape of the weight."""
        with np.errstate(over="ignore"):
            return {"codes": weight.astype(np.float16).view(np.int16)}

    def weight(self, packed: Packed, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the weight."""
        return packed["codes"].view(np.float16).astype(np.float32)

    def bring_back(self, packed: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        """Return the weight."""
        import torch

        return packed["codes"].view(torch.float16).float()


class Int8:
    """Whole numbers from -127 to 127, and one scale for each output."""

    def pack(self, weight: NDArray[np.float32]) -> Packed:
        """Return `codes` in the shape of the weight, int8, and `scales` (outputs,) float32."""
        scales = np.abs(weight).reshape(len(weight), -1).max(axis=1) / np.float32(127)
        levels = np.rint(_quotient(weight, _by_output(scales, weight)))
        return {"codes": levels.clip(-127, 127).astype(np.int8), "scales": scales}

    def weight(self, packed: Packed, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the weight."""
        return packed["codes"].astype(np.float32) * _by_output(packed["scales"], packed["codes"])

    def bring_back(self, packed: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        """Return the weight."""
        return packed["codes"].float() * packed["scales"].view(-1, *(1 for _ in shape[1:]))


class NF4:
    """NormalFloat of 4 bits in blocks of 64 weights, the blocks' scales in 8 bits in groups of 256: 4.13 bits a weight.

    The 16 values are those of [QLoRA](https://arxiv.org/abs/2305.14314), appendix E: as many quantiles of a normal
    distribution, and zero. A block's scale is its largest magnitude. The scales are kept in 8 bits too ("double
    quantization"): evenly between the least and the greatest of their group, where the paper has 8-bit floats.
    Weights are taken with the inputs last, as channels lie in memory while training.
    """

    BLOCK: ClassVar[int] = 64
    GROUP: ClassVar[int] = 256
    VALUES: ClassVar[NDArray[np.float32]] = np.array(
        [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        ],
        dtype=np.float32,
    )

    def pack(self, weight: NDArray[np.float32]) -> Packed:
        """Return the packed weight.

        `codes` are uint8, two weights each, the first in the upper half, a last block filled up with zeros; `levels`
        (blocks,) uint8; `lows` and `steps` (groups,) float32: a block's scale is low + level * step of its group;
        `values` (16,), what the codes stand for.
        """
        blocks = _rows(np.moveaxis(weight, 1, -1).reshape(-1), self.BLOCK, fill=np.float32(0))
        largest = np.abs(blocks).max(axis=1)
        groups = _rows(largest, self.GROUP, fill=largest[-1])
        lows = groups.min(axis=1)
        steps = (groups.max(axis=1) - lows) / np.float32(255)
        levels = np.rint(_quotient(groups - lows[:, None], steps[:, None])).clip(0, 255)
        levels = levels.astype(np.uint8).reshape(-1)[: len(blocks)]
        normal = _quotient(blocks, self._scales(levels, lows, steps)[:, None])
        nearest = np.searchsorted((self.VALUES[1:] + self.VALUES[:-1]) / 2, normal).astype(np.uint8).reshape(-1, 2)
        codes = nearest[:, 0] << 4 | nearest[:, 1]
        return {"codes": codes, "levels": levels, "lows": lows, "steps": steps, "values": self.VALUES}

    def weight(self, packed: Packed, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the weight."""
        codes = packed["codes"]
        values = packed["values"][np.stack((codes >> 4, codes & 15), axis=-1)].reshape(-1, self.BLOCK)
        scales = self._scales(packed["levels"], packed["lows"], packed["steps"])
        numbers = (values * scales[:, None]).reshape(-1)[: math.prod(shape)]
        return np.ascontiguousarray(np.moveaxis(numbers.reshape(shape[0], *shape[2:], shape[1]), -1, 1))

    def bring_back(self, packed: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        """Return the weight, a view whose channels lie last in memory."""
        import torch

        pairs = torch.cartesian_prod(packed["values"], packed["values"])  # (256, 2): what each code stands for
        values = pairs.index_select(0, packed["codes"].int()).view(-1, self.BLOCK)
        lows, steps = (
            packed[name].unsqueeze(1).expand(-1, self.GROUP).reshape(-1)[: len(values)] for name in ("lows", "steps")
        )
        # Two operations, for one that multiplies and adds at once would round once.
        scales = packed["levels"] * steps
        scales = scales + lows
        numbers = (values * scales.unsqueeze(1)).view(-1)[: math.prod(shape)]
        return numbers.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def _scales(
        self, levels: NDArray[np.uint8], lows: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the scale of each block, (blocks,)."""
        low, step = (np.repeat(each, self.GROUP)[: len(levels)] for each in (lows, steps))
        return levels.astype(np.float32) * step + low


PRECISIONS: Mapping[str, Precision] = {"fp16": Half(), "int8": Int8(), "nf4": NF4()}
"""All but float32, by the names that cards and the command line use."""
NAMES = (FLOAT32, *PRECISIONS)


def is_rounded(shape: tuple[int, ...], name: str) -> bool:
    """Whether a weight of this shape is rounded in a base of the precision `name`.

    Small layers are not, and depthwise ones: few weights, of which each channel has a range of its own.

    Example:
        >>> is_rounded((64, 64, 3, 3), "nf4"), is_rounded((768, 1, 3, 3), "nf4"), is_rounded((64, 64, 3, 3), "float32")
        (True, False, False)
    """
    return name != FLOAT32 and math.prod(shape) >= LEAST and shape[1] > 1


def rounded_weight(weight: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return a weight as a base of the precision `name` has it.

    Example:
        >>> float(rounded_weight(np.full((64, 64), 0.1, dtype=np.float32), "fp16")[0, 0])
        0.0999755859375
    """
    if not is_rounded(weight.shape, name):
        return weight
    precision = PRECISIONS[name]
    return precision.weight(precision.pack(weight), weight.shape)


def _by_output(vector: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    return vector.reshape(-1, *(1 for _ in weight.shape[1:]))


def _quotient(numbers: NDArray[np.float32], divisors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers by divisors, 0 where a divisor is."""
    divisors = np.broadcast_to(divisors, numbers.shape)
    return np.divide(numbers, divisors, out=np.zeros_like(numbers), where=divisors > 0)


def _rows(numbers: NDArray[np.float32], length: int, *, fill: np.float32) -> NDArray[np.float32]:
    """Return numbers in rows of `length`, the last one filled up."""
    return np.pad(numbers, (0, -len(numbers) % length), constant_values=fill).reshape(-1, length)
