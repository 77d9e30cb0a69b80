"""Which loggers a training tells of itself: those that were asked for, and no one's analytics."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from ultralytics.utils import SETTINGS, callbacks

from visionlora.errors import UsageError

VARIABLE = "VISIONLORA_LOGGERS"
LOGGERS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")


def chosen_loggers() -> tuple[str, ...]:
    """Return the loggers that `$VISIONLORA_LOGGERS` names, such as `tensorboard,mlflow`; none if it is not set.

    Raises:
        UsageError: one of them is none of Ultralytics'.
    """
    names = tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())
    for name in names:
        if name not in LOGGERS:
            raise UsageError(f"{VARIABLE}: expected {', '.join(LOGGERS)}, separated by commas, got {name!r}")
    return names


@contextlib.contextmanager
def only_chosen_loggers() -> Iterator[None]:
    """Make trainers inside tell the chosen loggers alone.

    Answers ultralytics/utils/callbacks/base.py, which adds its analytics and every logger that happens to be installed,
    some of which talk to a server.
    """
    original = callbacks.add_integration_callbacks
    callbacks.add_integration_callbacks = _add_chosen
    try:
        yield
    finally:
        callbacks.add_integration_callbacks = original


def _add_chosen(trainer: Any) -> None:
    for name in chosen_loggers():
        dict.__setitem__(SETTINGS, name, True)  # in memory: its own setter writes the file
        module = importlib.import_module(f"ultralytics.utils.callbacks.{'wb' if name == 'wandb' else name}")
        for event, function in module.callbacks.items():
            trainer.callbacks[event].append(function)
