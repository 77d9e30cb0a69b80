"""LoRA: W' = W + alpha / sqrt(rank) * B @ A, and W' = W + D for small layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters.arithmetic import low_rank_delta
from visionlora.adapters.methods.method import Arrays, Factor, Matrix
from visionlora.adapters.methods.ranked import Ranked
from visionlora.adapters.shapes import layer_rank
from visionlora.errors import AdapterError, UsageError

if TYPE_CHECKING:
    import torch

_A, _B, _DELTA = "lora_A", "lora_B", "delta"
_LARGEST = 1e100
"""Change of a weight above which arithmetic in float64 says nothing any more."""


@dataclass(frozen=True)
class LoRA(Ranked):
    """Low-rank adaptation.

    It is that of [LoRA](https://arxiv.org/abs/2106.09685), scaled as in [rsLoRA](https://arxiv.org/abs/2312.03732).
    B is (outputs, rank) and zero at the start, A is (rank, ...) with the weight's other axes. So it works for every
    convolution and every linear layer, and merging is exact.

    Attributes:
        rank: inner dimension of A and B; lowered on layers too small for it.
        alpha: strength; the product B @ A counts alpha / sqrt(rank).
        full: layers of up to so many weights are adapted at full rank, by a D of the weight's shape instead of factors.

    Raises:
        UsageError: rank or alpha is not positive, or full is negative.
    """

    full: int = 0
    name: ClassVar[str] = "lora"
    tensors: ClassVar[tuple[str, ...]] = (_A, _B, _DELTA)
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.full) is not int or self.full < 0:
            raise UsageError(f"full: expected a whole number of at least 0, got {self.full!r}")

    @property
    def words(self) -> str:
        """The rank, and up to what size it is full."""
        return f"at rank {self.rank}" + (f", up to {self.full:,} weights at full rank" if self.full else "")

    # -- the file

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return A as (rank, inputs, kernel...) and B as (outputs, rank, 1...), as PEFT has them; or D."""
        if math.prod(weight) <= self.full:
            return {_DELTA: weight}
        outputs, *rest = weight
        rank = layer_rank(self.rank, outputs, math.prod(rest))
        return {_A: (rank, *rest), _B: (outputs, rank, *(1 for _ in rest[1:]))}

    # -- in NumPy, one order of operations

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return W + scale * B @ A, or W + D."""
        if _DELTA in tensors:
            return weight + tensors[_DELTA].astype(np.float32)
        delta = low_rank_delta(tensors[_B], tensors[_A], self.scale(len(tensors[_A])))
        return weight + delta.reshape(weight.shape)

    # -- arithmetic on adapters

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return the shape of the weight that A and B, or D, belong to."""
        given = {name: tensor.shape for name, tensor in tensors.items()}
        if set(given) == {_DELTA}:
            weight = given[_DELTA]
        elif set(given) == {_A, _B} and min(map(len, given.values())) >= 2:
            weight = (given[_B][0], *given[_A][1:])
        else:
            raise ValueError(f"expected the factors {_A} and {_B}, got {', '.join(sorted(given)) or 'none'}")
        if self.shapes(weight) != given:
            raise ValueError(f"expected {self.shapes(weight)}, got {given}")
        return weight

    def change(self, tensors: Arrays) -> Matrix:
        """Return scale * B @ A, or D."""
        if _DELTA in tensors:
            return _matrix(tensors[_DELTA])
        left, right = self._factors(tensors)
        return left @ right

    def summed(self, others: Sequence[LoRA], rank: int | None) -> LoRA:
        """Return LoRA of a rank, or of all ranks together; what is at full rank in one is so in the sum."""
        ranks, full = zip(*((method.rank, method.full) for method in (self, *others)), strict=True)
        return replace(self, rank=sum(ranks) if rank is None else rank, full=max(full))

    def combined(self, parts: Sequence[tuple[Factor, LoRA, Arrays]]) -> dict[str, Matrix]:
        """Return the factors of this rank whose product is nearest to the sum (Eckart and Young), or the sum as D."""
        _, first, tensors = parts[0]
        shapes = self.shapes(first.weight_shape(tensors))
        if _DELTA in shapes:
            total = np.asarray(sum(factor * method.change(own) for factor, method, own in parts))
            return {_DELTA: total.reshape(shapes[_DELTA])}
        lefts, rights = zip(*(method._factors(own) for _, method, own in parts), strict=True)
        scaled = [factor * left for (factor, _, _), left in zip(parts, lefts, strict=True)]
        return self._nearest(np.concatenate(scaled, axis=1), np.concatenate(rights), shapes)

    def nearest(self, change: Matrix, weight: tuple[int, ...]) -> dict[str, Matrix]:
        """Return the tensors for a weight of this shape whose change is nearest to `change`, (outputs, inputs)."""
        shapes = self.shapes(weight)
        if _DELTA in shapes:
            return {_DELTA: change.reshape(weight)}
        outputs, inputs = change.shape
        left, right = (np.eye(outputs), change) if outputs < inputs else (change, np.eye(inputs))
        return self._nearest(left, right, shapes)

    def _nearest(self, left: Matrix, right: Matrix, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Matrix]:
        rank = shapes[_A][0]
        left, right = _truncated(left, right, rank, self.scale(rank))
        return {_A: right.reshape(shapes[_A]), _B: left.reshape(shapes[_B])}

    def _factors(self, tensors: Arrays) -> tuple[Matrix, Matrix]:
        """Return scale * B, (outputs, rank), and A, (rank, inputs)."""
        return self.scale(len(tensors[_A])) * _matrix(tensors[_B]), _matrix(tensors[_A])

    # -- in torch, for training

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return A uniform (Kaiming, as in the LoRA paper's code) and B zero, or D zero."""
        import torch

        shapes = self.shapes(tuple(weight.shape))
        if _DELTA in shapes:
            return {_DELTA: torch.zeros(shapes[_DELTA], device=weight.device)}
        right = torch.empty(shapes[_A], device=weight.device)
        torch.nn.init.kaiming_uniform_(right, a=math.sqrt(5))
        return {_A: right, _B: torch.zeros(shapes[_B], device=weight.device)}

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return W + scale * (gain * B) @ A, or W + gain * D."""
        if _DELTA in tensors:
            delta = tensors[_DELTA].reshape(weight.shape)
            return weight + (delta if gain is None else delta * gain.reshape(-1, *(1 for _ in weight.shape[1:])))
        right, left = tensors[_A], tensors[_B].reshape(len(weight), -1)
        left = left if gain is None else left * gain
        last = _channels_last(weight, right)
        product = _columns(weight, last).addmm(left, _columns(right, last), alpha=self.scale(len(right)))
        return _weight(product, weight, last)

    def batch(self, layers: Sequence[Any]) -> _Batch:
        """Join, scale and round the tensors of all layers in one go; each layer with factors keeps one matrix product.

        The weights and their gradients are those of `adapted`, but for the rounding to half precision, which here
        comes before the product.
        """
        return _Batch(self, layers)


class _Batch:
    """Those with factors and those at full rank, in their places among all layers."""

    def __init__(self, method: LoRA, layers: Sequence[Any]) -> None:
        whole = [hasattr(layer, _DELTA) for layer in layers]
        self._factors = _Factors(method, [layer for layer, full in zip(layers, whole, strict=True) if not full])
        self._deltas = _Deltas([layer for layer, full in zip(layers, whole, strict=True) if full])
        self._whole = whole

    def compute(self, frozen: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the adapted weight of each layer in `dtype`."""
        parts = [
            iter(part.compute([weight for weight, full in zip(frozen, self._whole, strict=True) if full == own], dtype))
            for own, part in ((False, self._factors), (True, self._deltas))
        ]
        return [next(parts[full]) for full in self._whole]


class _Deltas:
    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._joined: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def compute(self, frozen: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the adapted weight of each layer in `dtype`: all are added and rounded in one go."""
        import torch

        if not self._layers:
            return []
        last = [_channels_last(*pair) for pair in zip(frozen, self._deltas(), strict=True)]
        base, gains = self._joined or self._constants(frozen, last)
        if all(layer.packed is None for layer in self._layers):
            self._joined = base, gains
        deltas = [_columns(*pair).reshape(-1) for pair in zip(self._deltas(), last, strict=True)]
        joined = torch.cat(deltas)
        changed = (base + joined if gains is None else torch.addcmul(base, joined, gains)).to(dtype)
        pieces = torch.split(changed, [weight.numel() for weight in frozen])
        return [
            _weight(piece.view(len(weight), -1), weight, order)
            for piece, weight, order in zip(pieces, frozen, last, strict=True)
        ]

    def _deltas(self) -> list[torch.Tensor]:
        return [layer.delta for layer in self._layers]

    def _constants(
        self, frozen: Sequence[torch.Tensor], last: Sequence[bool]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return all frozen weights, and what each number of the joined D is multiplied with; None for nothing."""
        import torch

        base = torch.cat([_columns(*pair).reshape(-1) for pair in zip(frozen, last, strict=True)])
        if all(layer.gain is None for layer in self._layers):
            return base, None
        ones = [torch.ones_like(weight).reshape(len(weight), -1) for weight in frozen]
        gains = [one if layer.gain is None else one * layer.gain for one, layer in zip(ones, self._layers, strict=True)]
        return base, torch.cat([gain.reshape(-1) for gain in gains])


class _Factors:
    def __init__(self, method: LoRA, layers: Sequence[Any]) -> None:
        self._method, self._layers = method, layers
        self._constants: dict[torch.dtype, tuple[list[torch.Tensor | None], torch.Tensor]] = {}

    def compute(self, frozen: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the adapted weight of each layer in `dtype`."""
        import torch

        if not self._layers:
            return []
        last = [_channels_last(weight, layer.lora_A) for weight, layer in zip(frozen, self._layers, strict=True)]
        matrices, factors = self._rounded(frozen, last, dtype)
        rights = [_columns(layer.lora_A, order) for layer, order in zip(self._layers, last, strict=True)]
        lefts = [layer.lora_B for layer in self._layers]
        joined_right = torch.cat([right.reshape(-1) for right in rights]).to(dtype)
        joined_left = (torch.cat([left.reshape(-1) for left in lefts]) * factors).to(dtype)
        split_right = torch.split(joined_right, [right.numel() for right in rights])
        split_left = torch.split(joined_left, [left.numel() for left in lefts])
        return [
            _weight(torch.addmm(matrix, left.view(len(matrix), -1), right.view(like.shape)), weight, order)
            for matrix, left, right, like, weight, order in zip(
                matrices, split_left, split_right, rights, frozen, last, strict=True
            )
        ]

    def _rounded(
        self, frozen: Sequence[torch.Tensor], last: Sequence[bool], dtype: torch.dtype
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the frozen weights as matrices, and what each element of the joined B is multiplied with."""
        import torch

        if dtype not in self._constants:
            kept = [
                _columns(weight, order).to(dtype).contiguous() if layer.packed is None else None
                for weight, order, layer in zip(frozen, last, self._layers, strict=True)
            ]
            factors = []
            for layer in self._layers:
                left = layer.lora_B.detach().reshape(len(layer.lora_B), -1)
                factor = torch.ones_like(left) * self._method.scale(len(layer.lora_A))
                factors.append((factor if layer.gain is None else factor * layer.gain).reshape(-1))
            self._constants[dtype] = kept, torch.cat(factors)
        kept, joined = self._constants[dtype]
        matrices = [
            _columns(weight, order).to(dtype) if matrix is None else matrix
            for matrix, weight, order in zip(kept, frozen, last, strict=True)
        ]
        return matrices, joined


def in_format_of(weight: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix (outputs, inputs x kernel) in the shape and memory format of a weight."""
    import torch

    whole = matrix.reshape(weight.shape)
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return whole.contiguous(memory_format=torch.channels_last) if last else whole


def _channels_last(weight: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether the columns of A lie in memory as the channels of an image do, with the kernel before them.

    A pointwise A has no kernel, and the order of its columns is the same either way: the weight decides.
    """
    import torch

    tensor = right if right.dim() == weight.dim() else weight
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _columns(weight: torch.Tensor, last: bool) -> torch.Tensor:
    """Return a weight, or A, as a matrix whose columns lie as in memory: no copy for either memory format."""
    return (weight.permute(0, 2, 3, 1) if last and weight.dim() == 4 else weight).reshape(len(weight), -1)


def _weight(matrix: torch.Tensor, like: torch.Tensor, last: bool) -> torch.Tensor:
    """Return a matrix (outputs, inputs) in the shape of a weight."""
    if last:
        outputs, inputs, *kernel = like.shape
        return matrix.view(outputs, *kernel, inputs).permute(0, 3, 1, 2)
    return matrix.view(like.shape)


def _truncated(left: Matrix, right: Matrix, rank: int, scale: float) -> tuple[Matrix, Matrix]:
    """Return B (outputs, rank) and A (rank, inputs) with scale * B @ A nearest to left @ right.

    Raises:
        AdapterError: the product is beyond what can be computed.
    """
    with np.errstate(over="ignore"):
        largest = np.abs(left).max() * np.abs(right).max() * left.shape[1]
    if not largest < _LARGEST:  # nor a number that is none: LAPACK looks for singular values of such without an end
        raise AdapterError(f"expected changes of weights below {_LARGEST:g}, got {largest:g}; its alpha or factors lie")
    left_basis, left_core = np.linalg.qr(left)
    right_basis, right_core = np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    root = np.sqrt(values[:rank] / scale)
    new_left, new_right = (left_basis @ u[:, :rank]) * root, root[:, None] * (v[:rank] @ right_basis.T)
    spare = rank - len(root)
    return np.pad(new_left, ((0, 0), (0, spare))), np.pad(new_right, ((0, spare), (0, 0)))


def _matrix(tensor: NDArray[np.floating]) -> Matrix:
    return tensor.reshape(len(tensor), -1).astype(np.float64)
