"""An earlier run in the folder of a new one: kept aside until the new one has saved an epoch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from visionlora.training.run_folder import RunFolder

_ASIDE, _MOVING = ".earlier", ".earlier.moving"  # whole; on the way there or back
_LOGGER = logging.getLogger("visionlora")


@contextmanager
def replacing(run: RunFolder, *, stages: bool) -> Iterator[None]:
    """Put an earlier run aside, and remove it once the block has saved an epoch.

    Where the block ends without one, or is killed, the earlier run comes back: at once, or with the next `settle`.

    Args:
        run: folder of both.
        stages: what the stages after training made goes with it.
    """
    _put_aside(run, stages=stages)
    run.clear_phases()
    try:
        yield
    finally:
        settle(run)


def settle(run: RunFolder) -> None:
    """Remove the earlier run that lies aside if the new one has saved an epoch; else put it back."""
    aside, moving = run.path / _ASIDE, run.path / _MOVING
    if aside.is_dir():
        if run.has_progress():
            shutil.rmtree(aside)
            return
        run.clear_phases()
        os.replace(aside, moving)
        _LOGGER.warning("%s: the new run saved no epoch; the earlier one is back", run.path)
    if not moving.is_dir():
        return
    for path in [path for path in moving.rglob("*") if path.is_file()]:
        target = run.path / path.relative_to(moving)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(moving)


def _put_aside(run: RunFolder, *, stages: bool) -> None:
    """Move the files of a run into a folder of their own, which gets its name when all are there."""
    own = [path for phase in run.phases for path in (*phase.kept, *phase.temporary)]
    files = [path for path in (*own, *(run.later if stages else ())) if path.is_file()]
    if not files:
        return
    moving = run.path / _MOVING
    for path in files:
        target = moving / path.relative_to(run.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    os.replace(moving, run.path / _ASIDE)
    for phase in run.before.values():
        with suppress(OSError):  # the user's own files are there too
            phase.path.rmdir()
