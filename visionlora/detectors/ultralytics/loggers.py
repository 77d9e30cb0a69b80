"""Which loggers a training tells of itself: those that were asked for, and no one's analytics."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from ultralytics.utils import SETTINGS, callbacks

from visionlora.errors import UsageError

VARIABLE = "VISIONLORA_LOGGERS"
LOGGERS: Mapping[str, str] = {
    "clearml": "clearml",
    "comet": "comet_ml",
    "dvc": "dvclive",
    "mlflow": "mlflow",
    "raytune": "ray",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}
"""The package that each of Ultralytics' loggers imports; without it, it logs nothing and says nothing."""


def chosen_loggers() -> tuple[str, ...]:
    """Return the loggers that `$VISIONLORA_LOGGERS` names, such as `tensorboard,mlflow`; none if it is not set.

    Raises:
        UsageError: one of them is none of Ultralytics', or its package is not installed; all of them are listed.
    """
    asked = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    names = tuple(dict.fromkeys(name for name in asked if name))
    unknown = [repr(name) for name in names if name not in LOGGERS]
    if unknown:
        raise UsageError(f"{VARIABLE}: expected {', '.join(LOGGERS)}, separated by commas, got {', '.join(unknown)}")
    missing = [name for name in names if find_spec(LOGGERS[name]) is None]
    if missing:
        packages = " ".join("ray[tune]" if name == "raytune" else LOGGERS[name].replace("_", "-") for name in missing)
        raise UsageError(
            f"{VARIABLE}: {', '.join(missing)} would log nothing, as a package is missing: pip install {packages}, or "
            f"take {'it' if len(missing) == 1 else 'them'} out"
        )
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
