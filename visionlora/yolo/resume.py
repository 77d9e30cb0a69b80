"""What a run leaves behind to go on from: the state after its last finished epoch, and the rows of its results."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visionlora.errors import ModelError
from visionlora.files import atomic_output

STATE_FORMAT = 3


def read_resume_state(path: Path) -> Mapping[str, Any]:
    """Read what `save_model` wrote.

    Raises:
        ModelError: there is no such state, or it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: nothing to resume from: {error}; train without --resume") from error
    if state.get("format") != STATE_FORMAT:
        raise ModelError(f"{path}: begun by another version of visionlora; finish it there, or train without --resume")
    return state


def keep_rows(results: Path, epochs: int) -> None:
    """Drop the rows of `results` behind epoch `epochs`: a run killed while saving has one too many."""
    with results.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if int(float(row[0])) <= epochs]
    with atomic_output(results) as partial, partial.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(kept)
