"""Whether the code inside checkpoints may run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextlib.contextmanager
def trusted(yes: bool = True) -> Iterator[None]:
    """Run the code that checkpoints (.pt) carry, as Ultralytics does, instead of refusing what is no detector's.

    A checkpoint is a pickle, a list of instructions. Without this only those are followed that put a detector of known
    layers together; what asks for more is refused by name. Inside this block such a file does whatever its maker wants,
    with your rights: use it for files of people you trust.

    Args:
        yes: False changes nothing.

    Example:
        >>> import visionlora as vl
        >>> with vl.trusted():
        ...     vl.export("own_layers.pt", "model.onnx")  # doctest: +SKIP
    """
    token = _TRUSTED.set(yes or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Return whether the caller is inside `trusted()`."""
    return _TRUSTED.get()
