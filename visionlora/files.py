"""Writing files whole or not at all, and naming them by content."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from visionlora.errors import OutputError

_ABANDONED = 24 * 3600
"""Seconds after which a partial file of a process that is gone is nobody's: a container does not see another's
processes, but one of them writes more often than that."""


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
    disk before it gets the name, and the name before this returns. Temporary files that killed processes left for
    this `path` are removed.

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
        _remove_abandoned(path)
        partial.touch()  # with the user's own permissions, which not every writer would give
        yield partial
        sync(partial)  # the content before the name: a power cut must not leave an empty file
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder itself may be missing: the error above says so
            partial.unlink()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Raises:
        OSError: a file cannot be synced; of a folder that is no error, for not every system can.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not folder:
            raise


def _remove_abandoned(path: Path) -> None:
    """Remove the partial files of `path` whose process is gone and that nobody has written to for long."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.(\d{{1,9}})\.partial{re.escape(path.suffix)}")
    with os.scandir(path.parent) as entries:
        for entry in entries:
            process = name.fullmatch(entry.name)
            if process is None or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _ABANDONED and not _runs(int(process[1])):
                    os.unlink(entry.path)


def _runs(process: int) -> bool:
    import psutil  # here: leftovers are rare

    return psutil.pid_exists(process)


def sha256_of(*paths: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, of several files' one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
