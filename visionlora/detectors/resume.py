"""What a run leaves behind to go on from: one file with the state after its last finished epoch, and its checksum."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visionlora.detectors.checkpoints import reason_of
from visionlora.detectors.safe_globals import only_allowed
from visionlora.errors import ModelError
from visionlora.files import atomic_output

STATE_FORMAT = 4
_HEAD = f"visionlora resume state {STATE_FORMAT}\n".encode()
_EARLIER = (b"PK", b"visionlora resume state ")  # how states of other versions begin
_DIGEST_BYTES = 32
_ANEW = "begin anew with --overwrite instead of --resume, or choose another --out"
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, MemoryError),
    *(ImportError, pickle.UnpicklingError),
)


def write_resume_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a state: a line that names the format, the SHA-256 of what follows, and what `torch.save` makes of it.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    with atomic_output(path) as partial:
        partial.write_bytes(_HEAD + hashlib.sha256(content).digest() + content)


def read_resume_state(path: Path, *, run: str) -> Mapping[str, Any]:
    """Read what `write_resume_state` wrote.

    Args:
        path: the file.
        run: what the state must say of itself under `run`: which settings and data it belongs to.

    Raises:
        ModelError: there is no such state, it is damaged, or of another run or version.
    """
    try:
        written = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: nothing to resume from: {error.strerror or error}; {_ANEW}") from error
    if not written.startswith(_HEAD):
        if written.startswith(_EARLIER):
            raise ModelError(f"{path}: begun by another version of visionlora; finish it there, or {_ANEW}")
        raise ModelError(f"{path}: damaged: expected a state to resume from, got something else; {_ANEW}")
    digest, content = written[len(_HEAD) :][:_DIGEST_BYTES], written[len(_HEAD) + _DIGEST_BYTES :]
    if hashlib.sha256(content).digest() != digest:
        raise ModelError(f"{path}: damaged: its content does not have the checksum that was written with it; {_ANEW}")
    try:
        with only_allowed([]):
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        own = state["run"]
    except _UNREADABLE as error:
        reason = reason_of(error)
        raise ModelError(f"{path}: cannot be read: {reason}; {_ANEW}") from error
    if own != run:
        raise ModelError(f"{path}: the state of another run than training.json beside it describes; {_ANEW}")
    return state


def restore_results(state: Mapping[str, Any], path: Path) -> None:
    """Write results.csv as it was with a state: a run killed while saving has a row too many, or half of one."""
    with atomic_output(path) as partial:
        partial.write_text(state["results"], encoding="utf-8", newline="")
