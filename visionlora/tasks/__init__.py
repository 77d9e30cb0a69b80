"""What a detector finds, one file a task. No torch and no data: every room above asks the task of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError
from visionlora.tasks.detect import DETECT
from visionlora.tasks.label_lines import SLACK
from visionlora.tasks.obb import OrientedBoxes
from visionlora.tasks.pose import Pose
from visionlora.tasks.segment import Segment
from visionlora.tasks.task import Task, difference

TASKS: Mapping[str, Task] = {"detect": DETECT}
"""All tasks by the names that Ultralytics and the files have for them."""

__all__ = ["DETECT", "SLACK", "TASKS", "OrientedBoxes", "Pose", "Segment", "Task", "difference", "task_of"]


def task_of(name: Any, where: Path | str) -> Task:
    """Return the task that a file names.

    Args:
        name: what the file says.
        where: the file, for the message.

    Raises:
        ModelError: there is no such task.

    Example:
        >>> task_of("detect", "model.onnx").rows(3)
        7
    """
    if not isinstance(name, str) or name not in TASKS:
        known = " or ".join(TASKS)
        raise ModelError(f"{where}: expected a model of task {known}, got one of task {name!r:.60}; use another model")
    return TASKS[name]
