"""What a detector finds, one file a task. No torch and no data: every room above asks the task of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError, UsageError
from visionlora.tasks.classify import Classify
from visionlora.tasks.detect import DETECT
from visionlora.tasks.label_lines import SLACK
from visionlora.tasks.obb import OrientedBoxes
from visionlora.tasks.pose import OBJECT_IN_BOX, Pose
from visionlora.tasks.rows import rows_of_parts
from visionlora.tasks.segment import Segment, coco_segmentation
from visionlora.tasks.task import OfBoxes, RawPrediction, Task, box_fields, difference, one_image

TASKS: Mapping[str, Task] = {task.name: task for task in (DETECT, Segment(), Pose(), OrientedBoxes(), Classify())}
"""All tasks by the names that Ultralytics and the files have for them, with the sizes that are usual."""

__all__ = [
    "DETECT",
    "OBJECT_IN_BOX",
    "SLACK",
    "TASKS",
    "Classify",
    "OfBoxes",
    "OrientedBoxes",
    "Pose",
    "RawPrediction",
    "Segment",
    "Task",
    "box_fields",
    "coco_segmentation",
    "difference",
    "one_image",
    "rows_of_parts",
    "task_fields",
    "task_of",
    "task_on",
    "task_words",
]


def task_of(name: Any, where: Path | str, settings: Any = None) -> Task:
    """Return the task that a file names.

    Args:
        name: what the file says.
        where: the file, for the message.
        settings: the sizes of the task that it says; None for none.

    Raises:
        ModelError: there is no such task, or it has no such sizes.

    Example:
        >>> task_of("detect", "model.onnx").rows(3)
        7
        >>> task_of("pose", "model.onnx", {"keypoints": 12, "dims": 2}).rows(1)
        29
    """
    if not isinstance(name, str) or name not in TASKS:
        known = " or ".join(TASKS)
        raise ModelError(f"{where}: expected a model of task {known}, got one of task {name!r:.60}; use another model")
    task: Any = TASKS[name]
    known = ", ".join(task.settings()) or "no sizes"
    if settings is None:
        return task
    if not isinstance(settings, Mapping) or not task.settings().keys() >= settings.keys():
        raise ModelError(f"{where}: task {name}: expected {known}, got {settings!r:.80}")
    try:
        return replace(task, **settings)
    except UsageError as error:
        raise ModelError(f"{where}: task {name}: {error}") from error


def task_on(card: Mapping[str, Any], where: Path | str) -> Task:
    """Return the task that a card names; detection where it names none.

    Raises:
        ModelError: as from `task_of`.
    """
    return task_of(card.get("task", DETECT.name), where, card.get("task_settings"))


def task_words(task: Task) -> str:
    """Return a task with its sizes, for messages.

    Example:
        >>> task_words(Pose(12, 2))
        'pose (keypoints 12, dims 2)'
    """
    sizes = ", ".join(f"{name} {size}" for name, size in task.settings().items())
    return f"{task.name} ({sizes})" if sizes else task.name


def task_fields(task: Task) -> dict[str, Any]:
    """Return what a card says of a task, which `task_on` reads: its name, and its sizes where it has some."""
    settings = task.settings()
    return {"task": task.name, **({"task_settings": settings} if settings else {})}
