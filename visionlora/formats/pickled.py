"""What plain values a checkpoint of torch holds: read from its pickle without torch, to look at it, not to load it.

Nothing is run. A detector's layers and tensors are loaded by its family.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError

_LARGEST = 1 << 26  # bytes of the pickle alone, without the tensors
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class Opaque:
    """Stands for any object of a pickle that is no plain value: a module, a tensor, a function and its result."""

    def __new__(cls, *_: Any, **__: Any) -> Opaque:
        """Take whatever the object was made with."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take an item of a list's subclass."""

    def extend(self, values: Any) -> None:
        """Take the items of a list's subclass."""

    def add(self, value: Any) -> None:
        """Take an item of a set's subclass."""

    def update(self, values: Any) -> None:
        """Take the items of a set's subclass."""


class _Ordered(dict[Any, Any]):
    """A dictionary; what is set on it beside its entries, as `_metadata` on a state dict, is left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle._Unpickler):  # in Python: the one in C reserves as much memory as the file asks for
    def find_class(self, module: str, name: str) -> Any:
        return _Ordered if (module, name) == ("collections", "OrderedDict") else Opaque

    def persistent_load(self, pid: Any) -> Any:
        return Opaque()

    def get_extension(self, code: int) -> None:
        self.append(Opaque)  # type: ignore[attr-defined]


def read_plain(path: Path) -> dict[str, Any]:
    """Return the entries of the dictionary that `torch.save` wrote into a file; what is no plain value is `Opaque`.

    No class of the file is looked up and no function called, so that a file of anybody can be looked at.

    Raises:
        ModelError: the file is missing, broken, or holds no dictionary.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((entry for entry in archive.namelist() if entry.endswith("/data.pkl")), None)
            if name is None or archive.getinfo(name).file_size > _LARGEST:
                raise ModelError(f"{path}: expected a checkpoint that torch.save wrote, found no list of its content")
            content = archive.read(name)
        found = _Unpickler(io.BytesIO(content)).load()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _BROKEN as error:
        raise ModelError(f"{path}: expected a checkpoint that torch.save wrote, cannot read it: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a checkpoint of a detector, got a file of something else")
    return {key: value for key, value in found.items() if isinstance(key, str)}
