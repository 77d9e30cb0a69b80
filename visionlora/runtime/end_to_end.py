"""Final detections, as some files give them: told from raw predictions, checked, and brought into their form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError
from visionlora.formats.text import class_words
from visionlora.runtime.description import Stated
from visionlora.tasks import Task
from visionlora.vision.inference import SCORE_TOLERANCE

_ORDERED = 0.9
"""Share of rows whose left is below their right and top above their bottom, for a file that does not say its form."""


def is_end_to_end(
    path: Path, task: Task, shape: tuple[int, ...], classes: int, stated: Stated, trials: list[NDArray[np.float32]]
) -> bool:
    """Return whether a file gives final detections (n, boxes, columns) and not raw predictions (n, rows, anchors).

    Args:
        path: the file, for messages.
        task: what its raw predictions would be of.
        shape: of its first output.
        classes: how many class names it has.
        stated: what its metadata says.
        trials: first outputs of some pictures; they decide where the metadata says nothing.

    Raises:
        ModelError: it gives neither, or what its metadata contradicts.
    """
    rows = task.rows(classes)
    if not task.boxes:
        if shape[1:] != (rows,):
            raise ModelError(f"{path}: expected an output (n, {rows}) for {class_words(classes)}, got {shape}")
        return False
    if len(shape) == 3 and shape[2] == task.final_columns:
        if stated.end_to_end is None:
            if not _looks_end_to_end(task, trials, classes):
                raise ModelError(
                    f"{path}: expected its {task.final_columns} columns to be left, top, right, bottom, score and "
                    "class first, as Ultralytics and YOLOv10 write them; its metadata does not say so ('args' with "
                    "nms, or 'end2end'), and its values are something else; export raw predictions "
                    f"(n, {rows}, anchors), as Ultralytics does without nms"
                )
            return True
        if stated.end_to_end and stated.head != "RTDETRDecoder":
            return True
    if stated.end_to_end or len(shape) != 3 or shape[1] != rows:
        raw = f"(n, {rows}, anchors) for {class_words(classes)}"
        final = f"(n, boxes, {task.final_columns})"
        wanted = {None: f"{raw} or {final}", True: f"{final}, as its metadata says", False: raw}
        raise ModelError(f"{path}: expected an output {wanted[stated.end_to_end]}, got {shape}")
    return False


def one_hot(path: Path, task: Task, rows: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Final detections (n, boxes, columns) -> the first output of a raw prediction of a task, (n, rows, boxes).

    Raises:
        ModelError: a row is no detection of one of the classes.
    """
    geometry, scores, ids = task.split_final(rows)
    if not np.isfinite(rows).all():
        raise ModelError(f"{path}: the network gave values that are no numbers; its file is broken")
    if rows.shape[1] and (np.min(ids) < 0 or np.max(ids) >= classes):
        raise ModelError(f"{path}: gave class id {np.min(ids):g} to {np.max(ids):g}, but has {classes} names")
    if (ids != np.floor(ids)).any() or (scores < -SCORE_TOLERANCE).any() or (scores > 1 + SCORE_TOLERANCE).any():
        raise ModelError(
            f"{path}: expected rows of a box, score in [0, 1] and class, got such as "
            f"{rows[0, 0].tolist()}; it gives something else than final detections"
        )
    return task.encode(geometry, scores, ids.astype(np.int64), classes=classes)


def lowest_score(task: Task, rows: NDArray[np.float32]) -> float:
    """Return the lowest score above zero of final rows; 1 where there is none."""
    scores = task.split_final(rows)[1]
    return float(np.min(scores, where=scores > 0, initial=1.0))


def _looks_end_to_end(task: Task, trials: list[NDArray[np.float32]], classes: int) -> bool:
    """Whether every row of some outputs can be a final detection, best first, and at least one is."""
    rows = np.concatenate([output.reshape(-1, task.final_columns) for output in trials])
    boxes, scores, ids = task.split_final(rows)
    found = scores != 0
    if not found.any() or not np.isfinite(rows).all():
        return False
    ordered = (boxes[found, :2] < boxes[found, 2:]).all(axis=1)
    return bool(
        (ids == np.floor(ids)).all()
        and 0 <= ids.min() <= ids.max() < classes
        and scores.min() >= 0
        and scores.max() <= 1 + SCORE_TOLERANCE
        and ordered.mean() >= _ORDERED
        and all((np.diff(task.split_final(output)[1], axis=1) <= 0).all() for output in trials)
    )
