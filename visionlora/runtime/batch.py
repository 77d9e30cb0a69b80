"""A batch of pictures before a network and behind it: shapes, and files that fix how many pictures they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.tasks import RawPrediction, Task


def check_batch(path: Path, batch: NDArray[Any], side: int) -> None:
    """Refuse a batch that is not (n, 3, side, side) with at least one picture.

    Raises:
        UsageError: it is not; `path` names the file.
    """
    if batch.ndim != 4 or batch.shape[1:] != (3, side, side) or not len(batch):
        raise UsageError(f"{path}: expected a batch (n, 3, {side}, {side}), got {batch.shape}")


def checked_outputs(path: Path, task: Task, outputs: Sequence[NDArray[Any]], pictures: int) -> RawPrediction:
    """Return what a graph gave for some pictures as float32, copied only where it is another type.

    Raises:
        ModelError: the first output is not (pictures, rows, columns), of classification (pictures, classes), or a later
            one not (pictures, channels, height, width): a graph need not give what it declares.
    """
    first, *rest = outputs
    if first.ndim != task.axes or len(first) != pictures:
        shape = f"({pictures}, rows, columns)" if task.boxes else f"({pictures}, classes)"
        raise ModelError(f"{path}: expected an output {shape}, got {first.shape}")
    for index, output in enumerate(rest, 1):
        if output.ndim != 4 or len(output) != pictures:
            raise ModelError(
                f"{path}: expected output {index} to be ({pictures}, channels, height, width), got {output.shape}"
            )
    return tuple(output.astype(np.float32, copy=False) for output in outputs)


def check_count(path: Path, task: Task, inputs: int, outputs: int) -> None:
    """Refuse a graph by the numbers of its inputs and outputs.

    Raises:
        ModelError: they are not those of a raw prediction of `task`.
    """
    if inputs != 1 or outputs != task.outputs:
        wanted = {1: "one output"}.get(task.outputs, f"{task.outputs} outputs")
        raise ModelError(
            f"{path}: expected a detector with one input and {wanted}, got a model of task {task.name!r} "
            f"with {inputs} and {outputs}; export its predictions alone "
            "(of an Ultralytics model: model.model[-1].export = True)"
        )


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
