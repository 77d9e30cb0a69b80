"""Writing files whole or not at all, and naming them by content."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from visionlora.errors import OutputError

_ABANDONED = 24 * 3600
"""Seconds after which a partial file of a process that is gone is nobody's: a container does not see another's
processes, but one of them writes more often than that."""
try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".visionlora.lock"
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
_LOCKS: set[int] = set()  # descriptors that this process locks by
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # of file systems that know none
_LOGGER = logging.getLogger("visionlora")


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
        remove_partials(path.parent, of=path, idle=_ABANDONED)
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


def remove_partials(folder: Path, *, of: Path | None = None, idle: float = 0) -> None:
    """Remove the temporary files in a folder whose process is gone.

    Args:
        folder: where they lie.
        of: the file that they would have become; None for any.
        idle: seconds for which nobody has written to them; 0 where no other process can write into the folder.
    """
    stem, suffix = (".+", r"(\..*)?") if of is None else (re.escape(of.stem), re.escape(of.suffix))
    name = re.compile(rf"\.{stem}\.(?P<process>\d{{1,9}})\.partial{suffix}")
    with os.scandir(folder) as entries:
        for entry in entries:
            found = name.fullmatch(entry.name)
            if found is None or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                apart = abs(time.time() - entry.stat(follow_symlinks=False).st_mtime)  # a clock may be set back
                if apart >= idle and not _runs(int(found["process"])):
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


@contextmanager
def exclusive(folder: Path | str) -> Iterator[Path]:
    """Make `folder` and hold it alone while the block runs; within the block it may be held again.

    The system lets go of a lock when its process ends, however it ends. What was made for it and is empty afterwards is
    removed again.

    Raises:
        OutputError: another run holds it (its process is named), it is a file, or it cannot be written to.

    Example:
        >>> import tempfile
        >>> with exclusive(Path(tempfile.mkdtemp()) / "run") as folder:
        ...     folder.is_dir()
        True
        >>> folder.exists()
        False
    """
    folder = Path(folder)
    key = folder.resolve()
    if key in _HELD.get():
        yield folder
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _lock(folder)
    held = _HELD.set(_HELD.get() | {key})
    try:
        yield folder
    finally:
        _HELD.reset(held)
        with suppress(OSError):  # Windows keeps a file that is open: then it stays, and is locked again by the next
            (folder / LOCK_FILE).unlink()
        _let_go(descriptor)
        with suppress(OSError):  # not empty: that is where to stop
            for path in made:
                path.rmdir()


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Let other processes wait that ask for the same folder while the block runs, where the system has such locks.

    Nothing is written into the folder. The system lets go of the lock where this process is killed.

    Raises:
        OSError: there is no such folder.
    """
    if fcntl is None:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Return the descriptor of the locked file in a folder, which says who holds it."""
    _leave_locks_in_forks()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            _LOCKS.add(descriptor)
            try:
                if _hold(descriptor, folder):
                    return descriptor
            except BaseException:
                _let_go(descriptor)
                raise
            _let_go(descriptor)
    except OSError as error:
        reason = "it is a file; expected a folder" if folder.is_file() else error.strerror or error
        raise OutputError(f"{folder}: cannot be written to: {reason}") from error


def _hold(descriptor: int, folder: Path) -> bool:
    """Lock an open lock file and write who holds it; false where the one before removed it meanwhile.

    Raises:
        OutputError: another process holds it.
    """
    if not _locked(descriptor, folder):
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        who = f"process {holder}" if holder else "another process"
        raise OutputError(f"{folder}: {who} is writing there; wait for it, end it, or choose another --out")
    try:
        current = os.stat(folder / LOCK_FILE)
    except FileNotFoundError:
        return False
    if not os.path.samestat(os.fstat(descriptor), current):
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
    return True


def _let_go(descriptor: int) -> None:
    _LOCKS.discard(descriptor)
    os.close(descriptor)


def _locked(descriptor: int, folder: Path) -> bool:
    """Lock an open file; return whether it was free."""
    try:
        if fcntl is None:
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text: Windows lets nobody read what is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        _LOGGER.warning("%s: this file system has no locks; see to it that no other run writes there", folder)
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return True


@functools.cache
def _leave_locks_in_forks() -> None:
    """Have forked processes close what they inherit: a loader's worker may outlive a killed run for a while."""

    def leave() -> None:
        for descriptor in tuple(_LOCKS):
            _let_go(descriptor)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave)
