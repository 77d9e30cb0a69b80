"""A batch of pictures before a network: its shape, and files that fix how many pictures they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks import RawPrediction


def check_batch(path: Path, batch: NDArray[Any], side: int) -> None:
    """Refuse a batch that is not (n, 3, side, side) with at least one picture.

    Raises:
        UsageError: it is not; `path` names the file.
    """
    if batch.ndim != 4 or batch.shape[1:] != (3, side, side) or not len(batch):
        raise UsageError(f"{path}: expected a batch (n, 3, {side}, {side}), got {batch.shape}")


def run_in_steps(run: Callable[[NDArray[Any]], RawPrediction], batch: NDArray[Any], step: int | None) -> RawPrediction:
    """Run a batch of any size through a file that takes `step` pictures at once, any number if None.

    The last step is filled up with zeros, whose output is left out.
    """
    if step is None or step == len(batch):
        return run(batch)
    spare = -len(batch) % step
    padded = np.concatenate([batch, np.zeros_like(batch, shape=(spare, *batch.shape[1:]))]) if spare else batch
    done = [run(padded[i : i + step]) for i in range(0, len(padded), step)]
    return tuple(np.concatenate(parts)[: len(batch)] for parts in zip(*done, strict=True))
