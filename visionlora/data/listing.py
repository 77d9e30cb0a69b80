"""Which picture files a split holds: those below its folders, and those that its list files name."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from visionlora.data.problems import shown
from visionlora.errors import DataError
from visionlora.vision.preprocess import IMAGE_SUFFIXES, refuse_special

OTHER_SUFFIXES = (".avif", ".dng", ".heic", ".heif", ".jp2", ".mpo")
"""Of pictures that Ultralytics reads and `read_image` does not: refused by name, not left out."""
_SUFFIXES = frozenset(IMAGE_SUFFIXES + OTHER_SUFFIXES)


def list_pictures(sources: Sequence[Path], where: str) -> list[Path]:
    """Return the picture files in folders (with their sub-folders) and list files, in the order of their paths.

    Args:
        sources: folders, and text files with a path a line.
        where: names the split in messages.

    Raises:
        DataError: there is none, or a list or a folder cannot be read.
    """
    paths: list[str] = []
    for source in sources:
        paths += pictures_below(source) if source.is_dir() else _listed(source)
    if not paths:
        names = ", ".join(shown(source) for source in sources)
        raise DataError(f"{where}: expected images, got none in {names}; formats are {' '.join(IMAGE_SUFFIXES)}")
    return [Path(path) for path in sorted(set(paths))]


def pictures_below(folder: Path | str) -> list[str]:
    """Return the files below a folder that are named like pictures, in no order; hidden files and folders are not.

    A folder is read once, however many links lead to it, so folders that link to themselves come to an end. What is
    named like a picture and is no regular file, such as a pipe, is among them, for the reader to refuse.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    folders, links = deque([str(folder)]), deque[str]()  # a folder's own path comes before those by links
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    linked = entry.is_symlink()
                    if os.path.isdir(entry.path) if linked else entry.is_dir():  # a link to itself is no folder
                        (links if linked else folders).append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
                        found.append(entry.path)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"{shown(here)}: expected a folder of images, got none that can be read; {reason}"
            ) from error
    return found


def _listed(source: Path) -> list[str]:
    """Return the paths in a list file, one a line; relative ones count from its folder.

    Bytes that are no UTF-8 stand for themselves, as in the names of files.
    """
    try:
        refuse_special(source)
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"{shown(source)}: expected a list of images, got none that can be read; {error}") from error
    if b"\0" in data:
        raise DataError(f"{shown(source)}: expected a list of images, got no text in UTF-8; save it as UTF-8")
    text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n").replace("\r", "\n")
    return [os.path.normpath(source.parent / line.strip()) for line in text.split("\n") if line.strip()]
