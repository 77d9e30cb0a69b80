"""What the backward pass needs and is cheap to compute: computed again then, instead of kept.

A tensor learns how it is made (`computed_again`); inside `kept_once` autograd keeps that, and not the tensor.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, cast

import torch

from visionlora.detectors.ultralytics.feature_kernels import copied, fits

Recipe: TypeAlias = Callable[[torch.Tensor | None], torch.Tensor]
"""Computes a tensor: in the one that is given, if any."""


class Maker(Protocol):
    """Computes a tensor or holds it; it lies in `out` if given."""

    def __call__(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tensor."""


class Again:
    """How a tensor is computed again: once, if all who will need it are known before.

    Args:
        make: computes it.
        version: of the tensor, which counts what is written into it; afterwards this no longer holds.
    """

    def __init__(self, make: Recipe, version: int) -> None:
        self.version = version
        self.uses = 0  # that are still to come
        self._make = make
        self._made: weakref.ref[torch.Tensor] | None = None
        self._held: torch.Tensor | None = None

    def __call__(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tensor, without a history; in `out` if given."""
        self.uses -= 1
        made = None if self._made is None else self._made()
        with torch.no_grad():
            if made is not None:
                result = placed(made, out)
            elif self.uses > 0:
                made = self._make(None)
                result = placed(made, out)
            else:
                made = result = self._make(out)
        self._made = weakref.ref(made)
        self._held = made if self.uses > 0 else None
        return result


def computed_again(tensor: torch.Tensor, make: Recipe) -> torch.Tensor:
    """Return the tensor, which now knows how to be computed again."""
    cast(Any, tensor).again = Again(make, tensor._version)
    return tensor


def again_of(tensor: torch.Tensor) -> Again | None:
    """Return how a tensor is computed again; None if it does not know, or was written into."""
    again = getattr(tensor, "again", None)
    return again if again is not None and again.version == tensor._version else None


def kept(tensor: torch.Tensor) -> Maker:
    """Return what gives a tensor later: how it is computed again, or itself."""
    again = again_of(tensor)
    if again is None:
        return Kept(tensor)
    again.uses += 1
    return again


class Kept:
    """Holds a tensor, without its history."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = tensor.detach(), tensor._version

    def __call__(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the tensor.

        Raises:
            RuntimeError: it was written into.
        """
        if self._tensor._version != self._version:
            raise RuntimeError("a tensor that its gradient needs was written into after the forward pass")
        return placed(self._tensor, out)


def placed(tensor: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor, copied to `out` if that is given."""
    if out is None:
        return tensor
    return copied(tensor, out) if fits(tensor, out) else out.copy_(tensor)


@contextmanager
def kept_once() -> Iterator[None]:
    """Keep nothing for the backward pass of what runs inside that can be computed again."""

    def pack(tensor: torch.Tensor) -> Any:
        again = again_of(tensor)
        if again is None:
            return tensor.detach()
        again.uses += 1
        return again

    def unpack(packed: Any) -> torch.Tensor:
        return packed() if isinstance(packed, Again) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
