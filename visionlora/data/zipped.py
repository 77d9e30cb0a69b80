"""A data set in a .zip: unpacked once into the cache, and nothing outside it."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.errors import DataError, OutputError
from visionlora.files import sha256_of
from visionlora.isolation import cache_folder

MOST_BYTES = 256 << 30
MOST_FILES = 2_000_000
_LARGEST_RATIO = 100
"""Of the unpacked bytes to the file's: pictures are compressed already, so that more is no data set."""
_SMALL = 1 << 30  # bytes that may be unpacked of any file
_ENCRYPTED = 1
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpacked(path: Path) -> Path:
    """Return the folder in the cache that holds what a .zip holds, unpacked unless it was before.

    The folder is named by the file's content, and appears when it is whole. Where all lies in one folder, that one is
    returned.

    Raises:
        DataError: the file is no .zip or damaged, holds names that lead out of it, links or encrypted files, or would
            unpack to more than a data set can be; nothing is left then.
        OutputError: the cache cannot be written to.
    """
    try:
        folder = cache_folder() / f"data-{sha256_of(path)[:32]}"
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            if not folder.is_dir():
                _unpack(path, archive, members, folder)
    except OutputError:
        raise
    except _BROKEN as error:
        raise DataError(f"{shown(path)}: expected a data set in a .zip, got none that can be read; {error}") from error
    tops = {PurePosixPath(name).parts[0] for name in members}
    inner = folder / next(iter(tops), "")
    return inner if len(tops) == 1 and inner.is_dir() else folder


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files in an archive by their path, after checking that each lies within it."""
    found: dict[str, zipfile.ZipInfo] = {}
    problems = []
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")  # of Windows
        parts = PurePosixPath(name).parts
        if name.endswith("/") or not parts or parts[0] == "__MACOSX":
            continue
        clean = "/".join(parts)
        if name.startswith("/") or ".." in parts or ":" in parts[0] or stat.S_ISLNK(info.external_attr >> 16):
            problems.append(f"{shown(path)}: expected files below the data set's folder, got {excerpt(name)}")
        elif info.flag_bits & _ENCRYPTED:
            problems.append(f"{shown(path)}: expected no encrypted file, got {excerpt(name)}; unpack it yourself")
        elif clean in found:
            problems.append(f"{shown(path)}: expected each file once, got {excerpt(name)} twice")
        found[clean] = info
    size, own = sum(info.file_size for info in found.values()), path.stat().st_size
    if len(found) > MOST_FILES or size > min(MOST_BYTES, max(_SMALL, _LARGEST_RATIO * own)):
        problems.append(
            f"{shown(path)}: expected a data set, got {len(found)} files of {size} bytes in {own}; unpack it yourself"
        )
    raise_problems(problems)
    return found


def _unpack(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    """Write an archive's files into a folder beside, which gets its name at the end."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    size = sum(info.file_size for info in members.values())
    try:
        partial.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial).free
        if size > free:
            raise OutputError(f"{folder.parent}: expected {size} bytes free to unpack {shown(path)}, got {free}")
        for name, info in members.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as written:
                shutil.copyfileobj(source, written)
        if not folder.is_dir():  # another process may have been faster
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
