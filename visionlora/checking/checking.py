"""The check of a data set: every picture and label is looked at once, and all that is found is told."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from visionlora.checking.balance import balance_findings, summary
from visionlora.checking.boxes import box_findings
from visionlora.checking.duplicates import duplicate_findings
from visionlora.checking.findings import DataCheck, Finding, in_order
from visionlora.checking.folders import folder_findings, name_findings
from visionlora.checking.kinds import kind_findings
from visionlora.checking.pictures import Picture, can_hash, look_at_class, look_at_lines, look_at_loaded
from visionlora.data import (
    SPLITS,
    Description,
    class_of,
    collect_coco,
    misplaced,
    picture_paths,
    read_description,
    shown,
)
from visionlora.errors import DataError, UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.progress import counting
from visionlora.tasks import DETECT, TASKS, Pose, Task

_THREADS = 4
_NEEDED = ("train", "val")


def check_data(
    data: Path | str,
    *,
    task: str | None = None,
    imgsz: int = 640,
    json: Path | str | None = None,
    overwrite: bool = False,
) -> DataCheck:
    """Look at every picture and label of a data set and tell all that is wrong or doubtful at once.

    An error is what `train` or `eval` refuses; a warning is what they take and is seldom meant.

    Args:
        data: a data.yaml, a folder with one, a COCO file, a .zip, or for a classifier a folder of classes.
        task: what a line of a label file holds; if not given, pose where the data.yaml has kpt_shape, classify for a
            folder of classes, else detect.
        imgsz: side of the square input in pixels that sizes of boxes are told at.
        json: file to write all of it to, also what the text leaves out.
        overwrite: replace that file.

    Raises:
        DataError: the data set's description cannot be read.
        OutputError: the file exists, or cannot be written.
        UsageError: there is no such task, or `imgsz` is no number above 0.

    Example:
        >>> check_data("datasets/neu-det/data.yaml").ok  # doctest: +SKIP
        True
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"--task: expected {', '.join(TASKS)}, got {task!r}")
    if isinstance(imgsz, bool) or not isinstance(imgsz, int) or imgsz < 1:
        raise UsageError(f"--imgsz: expected a number above 0, got {imgsz!r:.40}")
    if json is not None:
        refuse_existing(json, overwrite=overwrite)
    description = read_description(data)
    chosen = _task(description, task)
    pictures, sources, findings = _look(description, chosen)
    findings += _doubts(pictures, sources, description, chosen, imgsz)
    splits = {
        split: summary([picture for picture in pictures if picture.split == split], description.names, imgsz)
        for split in SPLITS
        if any(picture.split == split for picture in pictures)
    }
    findings += balance_findings(splits)
    found = DataCheck(shown(data), chosen.name, imgsz, description.names, splits, in_order(findings))
    if json is not None:
        with atomic_output(json) as written:
            written.write_text(json_text.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    return found


def _task(description: Description, name: str | None) -> Task:
    """Return what the labels are read as.

    Raises:
        DataError: the data set cannot be of the task that was asked for.
    """
    layout = description.keypoints
    own = "classify" if description.by_folder else "pose" if layout else DETECT.name
    name = name or own
    if (name == "classify") != description.by_folder:
        got = "a folder of classes" if description.by_folder else "a file"
        raise DataError(f"{shown(description.path)}: expected a data set for task {name}, got {got}; drop --task")
    if name != "pose":
        return TASKS[name]
    if layout is None:
        raise DataError(f"{shown(description.path)}: expected 'kpt_shape' for task pose, got none; add it")
    return Pose(layout.count, layout.dims)


def _look(description: Description, task: Task) -> tuple[list[Picture], list[Path], list[Finding]]:
    """Return the pictures of all splits, where these lie, and the errors."""
    findings: list[Finding] = []
    sources: list[Path] = []
    jobs: list[Callable[[], Picture]] = []
    hashed = can_hash()
    for split in SPLITS:
        if split not in description.splits and split not in _NEEDED:
            continue
        try:
            places = description.sources(split)
            if description.truths:
                _, images, wrong, hint = collect_coco(places[0], task)
                findings += [Finding("error", "label", line) for line in (*wrong, *([hint] if hint else []))]
                jobs += [partial(look_at_loaded, image, split, places[0], hashed=hashed) for image in images]
                continue
            paths = picture_paths(description, split)
        except DataError as error:
            level = "warning" if description.truths and split not in description.truths else "error"
            findings += [Finding(level, "split", line) for line in str(error).splitlines()]
            continue
        sources += places
        if description.by_folder:
            wrong = misplaced(paths, places[0], description.names, complete=split == "train")
            findings += [Finding("error", "folder", line) for line in wrong]
            ids = {name: index for index, name in enumerate(description.names)}
            jobs += [
                partial(look_at_class, path, split, ids[name], hashed=hashed)
                for path in paths
                if (name := class_of(path, places[0])) in ids
            ]
        else:
            jobs += [partial(look_at_lines, path, split, description, task, hashed=hashed) for path in paths]
    pictures = list(_run(jobs))
    for picture in pictures:
        for index, problem in enumerate(picture.problems):
            findings.append(Finding("error", "picture" if index < picture.broken else "label", problem))
    return pictures, sources, findings


def _run(jobs: Sequence[Callable[[], Picture]]) -> Iterator[Picture]:
    """Yield the results in order, with a bar. Threads suffice: decoders let go of Python's lock."""
    with ThreadPoolExecutor(_THREADS) as pool, counting("check", len(jobs), "picture") as advance:
        for picture in pool.map(lambda job: job(), jobs):
            advance()
            yield picture


def _doubts(
    pictures: Sequence[Picture], sources: Sequence[Path], description: Description, task: Task, imgsz: int
) -> list[Finding]:
    """Return what is doubtful about files, boxes and duplicates."""
    lines = not description.by_folder and not description.truths
    findings = name_findings(pictures) if not lines else folder_findings(pictures, sources)
    if task.boxes:
        findings += [*kind_findings(pictures, task), *box_findings(pictures, imgsz)]
    if not can_hash():
        message = "near-duplicates were not looked for; `pip install 'visionlora[data]'` adds what finds them"
        findings.append(Finding("note", "near duplicate", message))
    return findings + duplicate_findings(pictures)
