"""The checksum that an ONNX file of ours ends with: damage is noticed, wherever the file is read.

An ONNX file is a protobuf message, and a message with one more entry behind it is that message with the entry in it. So
the last metadata entry of a file is the SHA-256 of all bytes before that entry, and nobody needs to parse the file in
order to check it. Who edits a file has another checksum to write, or drops the entry.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError

KEY = "visionlora_sha256"
"""The metadata entry, as in the adapter file."""
_DIGITS = 64
# Field 14 of a ModelProto (onnx.proto) is a metadata entry: its length; field 1, the key; field 2, the value. The
# lengths are below 128, so that each is one byte.
_ENTRY = b"\x0a" + bytes([len(KEY)]) + KEY.encode() + b"\x12" + bytes([_DIGITS])
_MARK = b"\x72" + bytes([len(_ENTRY) + _DIGITS]) + _ENTRY


def seal(content: bytes) -> bytes:
    """Return an ONNX file, which has no such entry yet, with its checksum at the end.

    Example:
        >>> sealed = seal(b"")
        >>> len(sealed), is_sealed("model.onnx", sealed), is_sealed("model.onnx", b"")
        (87, True, False)
    """
    return content + _MARK + hashlib.sha256(content).hexdigest().encode()


def is_sealed(path: Path | str, content: bytes | None = None) -> bool:
    """Return whether an ONNX file ends with a checksum of ours, and check it.

    Files of other makers, of versions up to 0.2.0, and files whose entry was dropped have none.

    Args:
        path: the file.
        content: what the file would hold, where it is in memory only.

    Raises:
        ModelError: the checksum is not that of the file.
        OSError: the file cannot be read.
    """
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
        left = file.seek(0, io.SEEK_END) - len(_MARK) - _DIGITS
        if left < 0:
            return False
        file.seek(left)
        if file.read(len(_MARK)) != _MARK:
            return False
        named = file.read()
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(min(left, 1 << 20)):
            digest.update(block)
            left -= len(block)
    if named != digest.hexdigest().encode():
        raise _other(path)
    return True


def unseal(model: Any) -> None:
    """Drop the entry from the metadata of an `onnx.ModelProto`, which is going to be another file."""
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def check_entry(path: Path | str, entries: Mapping[str, str], *, sealed: bool) -> None:
    """Refuse a file that has the entry in its metadata, but not at its end: somebody has written it again.

    Args:
        path: the file.
        entries: its metadata.
        sealed: what `is_sealed` said.

    Raises:
        ModelError: it is such a file.
    """
    if KEY in entries and not sealed:
        raise _other(path)


def _other(path: Path | str) -> ModelError:
    return ModelError(
        f"{path}: damaged or edited: it does not have the checksum that it names; fetch it again, or if it was edited "
        f"on purpose, remove the entry {KEY!r} from its metadata_props"
    )
