"""What every adapter method says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[np.floating]]
Matrix = NDArray[np.float64]
Factor = float | Matrix
"""How often a change counts: a number, or one for each output, (outputs, 1)."""


class Method(Protocol):
    """A way to adapt one weight: its settings as a frozen dataclass, the tensors that it keeps, and its arithmetic.

    A weight is of shape (outputs, ...). The tensors of one layer go by short names; in the adapter file they are
    `<layer>.<short name>.weight`. torch is imported in the functions that train alone, because a device that patches
    an adapter into its base reads this too.

    Attributes:
        name: as cards and the command line call it.
        tensors: the short names.
        merges: whether the adapted weight takes the place of the base's: merging and patching need it.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]
    merges: ClassVar[bool]

    @property
    def words(self) -> str:
        """Its settings, as they end a sentence: `at rank 8`."""
        ...

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor kept for a weight of this shape, as the adapter file has it.

        Kernel axes that are all of length 1 are the file's alone: in training a tensor goes without them.
        """
        ...

    def merged(self, weight: NDArray[np.float32], tensors: Arrays) -> NDArray[np.float32]:
        """Return the adapted weight, to the same bits on every machine: what merging and patching write."""
        ...

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the tensors are before training: the adapted weight is the base's then."""
        ...

    def adapted(
        self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the adapted weight for training, of the shape and memory format of `weight`.

        Args:
            weight: the base's weight, already multiplied by `gain`.
            tensors: of this layer, without kernel axes that are all of length 1.
            gain: (outputs, 1) factor gamma / sigma of the batch normalization folded into the weight, or None.
        """
        ...

    def batch(self, layers: Sequence[Any]) -> Batch | None:
        """Return what computes the weights of many layers at once; None where nothing is won by it.

        Args:
            layers: the `AdaptedWeight`s of one model that have this very method.
        """
        ...


@runtime_checkable
class Summable(Method, Protocol):
    """A method whose adapters can be scaled, and may be added, in its own form, whatever the base's weights are."""

    def weight_shape(self, tensors: Arrays) -> tuple[int, ...]:
        """Return the shape of the weight that the tensors of one layer belong to, as far as they tell it.

        Raises:
            ValueError: they do not fit each other, or these settings.
        """
        ...

    def change(self, tensors: Arrays) -> Matrix:
        """Return what adds up where adapters do, as a matrix of a row for each output."""
        ...

    def summed(self, others: Sequence[Any], rank: int | None) -> Summable:
        """Return the settings of a weighted sum of adapters, the first of these settings, the others of this method.

        Args:
            others: settings of the others; empty where one adapter is scaled.
            rank: of the sum; None for whatever loses nothing.

        Raises:
            UsageError: the method has no such form.
        """
        ...

    def combined(self, parts: Sequence[tuple[Factor, Any, Arrays]]) -> dict[str, Matrix]:
        """Return the tensors of a layer with these settings whose change is nearest to a weighted sum of changes.

        Args:
            parts: factor, settings and tensors of each adapter.
        """
        ...


class Batch(Protocol):
    """Computes the weights of many layers at once."""

    def compute(self, frozen: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the adapted weight of each layer in `dtype`.

        Args:
            frozen: the base's weight of each layer, in float32; the same tensors at each call, but for a layer that
                keeps it packed (`layer.packed`): that is brought back for this call, and nobody may keep it.
            dtype: what the layers compute in.
        """
        ...
