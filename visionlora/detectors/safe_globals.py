"""The names that torch's restricted reader follows, for the length of one file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_LOCK = threading.Lock()


@contextlib.contextmanager
def only_allowed(listed: list[Any]) -> Iterator[None]:
    """Let torch's reader know these names alone.

    Its allow-list belongs to the process, and Ultralytics leaves real layers on it, which would be taken in place of a
    stand-in of the same name. What is on it is put back afterwards.
    """
    with _LOCK:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(listed)
        try:
            yield
        finally:
            meanwhile = set(torch.serialization.get_safe_globals()) - set(listed)  # by other threads
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals([*others, *meanwhile])
