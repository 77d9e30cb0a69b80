"""The bytes of a file that describes data: of a regular file and of a size that such a file can have."""

from __future__ import annotations

import stat
from pathlib import Path

from visionlora.data.problems import shown
from visionlora.errors import DataError


def read_bytes(path: Path, what: str, *, most: int, option: str = "") -> bytes:
    """Return a file's bytes.

    A pipe or a device is refused before it is opened: opening it could wait for ever.

    Args:
        path: the file.
        what: it is, in messages.
        most: bytes that such a file can have; a larger one is not read.
        option: that names it on the command line, to be checked where it cannot be read.

    Raises:
        DataError: the file is missing, unreadable, no regular file, or larger; where it is missing, the cause is a
            FileNotFoundError.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise DataError(f"{shown(path)}: expected {what}, got a folder; give the file")
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{shown(path)}: expected {what}, got a pipe or a device; give a regular file")
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        check = f"; check {option}" if option else ""
        raise DataError(f"{shown(path)}: expected {what}, got none that can be read; {reason}{check}") from error
    if len(content) > most:
        size = max(found.st_size, len(content))
        raise DataError(f"{shown(path)}: expected {what} of at most {most} bytes, got {size}; is it another file?")
    return content


def decode_utf8(content: bytes, path: Path) -> str:
    """Return the text in UTF-8 bytes, without a byte order mark.

    Raises:
        DataError: they are no UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = "; it looks like UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        byte = f"byte {content[error.start]:#04x} at {error.start}{utf16}"
        raise DataError(f"{shown(path)}: expected UTF-8 text, got {byte}; save it as UTF-8") from error
