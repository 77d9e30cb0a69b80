"""Writing files whole or not at all, and naming them by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from visionlora.errors import OutputError


def refuse_existing(path: Path | str, *, overwrite: bool = False) -> Path:
    """Return `path` if it may be written.

    Raises:
        OutputError: it exists already and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another --out or pass --overwrite")
    return path


@contextmanager
def atomic_output(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary file keeps the suffix of `path`, because many writers choose the format by it. Its content is on the
    disk before it gets the name.

    Raises:
        OutputError: the file cannot be written, for example because the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_output(target) as partial:
        ...     _ = partial.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # with the user's own permissions, which not every writer would give
        yield partial
        with open(partial, "rb+") as file:  # the content before the name: a power cut must not leave an empty file
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder itself may be missing: the error above says so
            partial.unlink()


def sha256_of(*paths: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, of several files' one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
