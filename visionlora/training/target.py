"""What an adapter is to find: its base's task, or another one, with the keypoints of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from visionlora.data import read_description
from visionlora.detectors.family import Base, Family
from visionlora.errors import UsageError
from visionlora.tasks import DETECT, TASKS, Pose, task_of


def check_task(asked: str | None) -> None:
    """Refuse a task that there is none of.

    Raises:
        UsageError: it is unknown.
    """
    if asked is not None and asked not in TASKS:
        raise UsageError(f"--task: expected {', '.join(TASKS)}, got {asked!r}")


def with_task(family: Family, base: Base, asked: str | None, data: Path | str) -> Base:
    """Return a base as it is to be adapted: its task that asked for, its keypoints those of a data set.

    Args:
        family: of the base.
        base: as it was loaded.
        asked: a task by name; None for the base's own.
        data: the data.yaml.

    Raises:
        DataError: the data.yaml cannot be read.
        UsageError: there is no such task, or the base is neither of it nor of detection.
    """
    check_task(asked)
    own = base.task.name
    name = own if asked is None else asked
    if name != own and not TASKS[name].boxes:
        raise UsageError(f"--task {name}: expected a base of that task, got one of task {own}; give another --model")
    if name != own and name not in family.tasks:
        raise UsageError(f"--task {name}: {family.name}'s detectors do {', '.join(family.tasks)} alone; drop it")
    if name not in (own, *(TASKS if own == DETECT.name else ())):
        raise UsageError(
            f"--task {name}: expected a base of that task or of detection, got one of task {own}; give another --model"
        )
    task = base.task if name == own else TASKS[name]
    if isinstance(task, Pose):
        layout = read_description(data).keypoints
        if layout is not None:
            task = task_of(name, data, {"keypoints": layout.count, "dims": layout.dims})
    return base if task == base.task else replace(base, task=task)
