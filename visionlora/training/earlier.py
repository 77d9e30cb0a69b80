"""An earlier run in the folder of a new one: kept aside until the new one has saved an epoch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from visionlora.training.phase import RUN_FILES, WORK_FILES, clear_run, has_progress, run_folders
from visionlora.training.run_folder import later_files

_ASIDE, _MOVING = ".earlier", ".earlier.moving"  # whole; on the way there or back
_LOGGER = logging.getLogger("visionlora")


@contextmanager
def replacing(out: Path, *, stages: bool) -> Iterator[None]:
    """Put an earlier run in `out` aside, and remove it once the block has saved an epoch.

    Where the block ends without one, or is killed, the earlier run comes back: at once, or with the next `settle`.

    Args:
        out: folder of the run.
        stages: what the stages after training made goes with it.
    """
    _put_aside(out, stages=stages)
    for folder in run_folders(out):
        clear_run(folder)
    try:
        yield
    finally:
        settle(out)


def settle(out: Path) -> None:
    """Remove the earlier run that lies aside if the one in `out` has saved an epoch; else put it back."""
    aside, moving = out / _ASIDE, out / _MOVING
    if aside.is_dir():
        if any(map(has_progress, run_folders(out))):
            shutil.rmtree(aside)
            return
        for folder in run_folders(out):
            clear_run(folder)
        os.replace(aside, moving)
        _LOGGER.warning("%s: the new run saved no epoch; the earlier one is back", out)
    if not moving.is_dir():
        return
    for path in [path for path in moving.rglob("*") if path.is_file()]:
        target = out / path.relative_to(moving)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(moving)


def _put_aside(out: Path, *, stages: bool) -> None:
    """Move the files of a run into a folder of their own, which gets its name when all are there."""
    own = [folder / name for folder in run_folders(out) for name in (*RUN_FILES, *WORK_FILES)]
    files = [path for path in (*own, *(later_files(out) if stages else ())) if path.is_file()]
    if not files:
        return
    moving = out / _MOVING
    for path in files:
        target = moving / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    os.replace(moving, out / _ASIDE)
    for folder in run_folders(out)[1:]:
        with suppress(OSError):  # the user's own files are there too
            folder.rmdir()
