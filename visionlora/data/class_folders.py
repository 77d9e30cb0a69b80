"""Pictures sorted into folders by their class, as Ultralytics' classifiers take them: DATA/train/CLASS/*.jpg."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from visionlora.data.problems import excerpt, shown
from visionlora.errors import DataError
from visionlora.formats.text import class_names

_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "validation", "valid", "test"),
    "test": ("test",),
}
"""Where each split lies, the first that is there; as Ultralytics looks for them."""


def read_class_folders(root: Path, *, option: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the class names, sorted, and the folder of each split.

    The classes are the folders in `train`; where there is no such split, those in the others. Hidden ones do not count.

    Raises:
        DataError: the folder has no split with folders in it, or cannot be read.
    """
    try:
        found = {entry.name for entry in os.scandir(root) if entry.is_dir()}
        splits = {
            split: next(name for name in names if name in found)
            for split, names in _FOLDERS.items()
            if not found.isdisjoint(names)
        }
        sources = {splits["train"]} if "train" in splits else set(splits.values())
        names = {
            entry.name
            for source in sources
            for entry in os.scandir(root / source)
            if entry.is_dir() and entry.name[0] != "."
        }
    except OSError as error:
        raise DataError(f"{shown(root)}: expected a folder of classes, got none that can be read; {error}") from error
    if not names:
        got = f"the folders {excerpt(sorted(found))}" if found else "no folder in it"
        raise DataError(
            f"{shown(root)}: expected a data.yaml, or for a classifier a folder with train/CLASS/*.jpg and "
            f"val/CLASS/*.jpg, got {got}; check {option}, or sort the pictures so"
        )
    try:
        return class_names(sorted(names)), {split: (name,) for split, name in splits.items()}
    except ValueError as error:
        raise DataError(f"{shown(root)}: {error}; rename the folder") from error


def class_of(path: Path, source: Path) -> str:
    """Return the class of a picture below the folder of its split."""
    return path.relative_to(source).parts[0]


def misplaced(paths: Sequence[Path], source: Path, names: Sequence[str], *, complete: bool) -> list[str]:
    """Return what is wrong with where the pictures of a split lie, a line each.

    Args:
        paths: the pictures, below `source`.
        source: the folder of the split.
        names: of the classes.
        complete: whether it is trained on: each class must have pictures, and be one of several.
    """
    problems = []
    depths = {path: len(path.relative_to(source).parts) for path in paths}
    loose = [path for path, depth in depths.items() if depth == 1]
    if loose:
        more = f" and {len(loose) - 1} more" if len(loose) > 1 else ""
        problems.append(
            f"{shown(loose[0])}: expected pictures in folders of their class, got this one{more} beside them"
        )
    nested = Counter(path.parent for path, depth in depths.items() if depth > 2)
    problems += [
        f"{shown(folder)}: expected pictures in the folder of their class, got {count} in a folder inside it; "
        f"move them to {shown(source / class_of(folder, source))}"
        for folder, count in nested.items()
    ]
    there = {class_of(path, source) for path, depth in depths.items() if depth > 1}
    problems += [
        f"{shown(source / name)}: expected a class that train has, got another; train has "
        f"{', '.join(names[:10])}{' ...' if len(names) > 10 else ''}"
        for name in sorted(there - set(names))
    ]
    if complete:
        problems += [
            f"{shown(source / name)}: expected pictures of this class, got none; add some, or remove the folder"
            for name in names
            if name not in there
        ]
        if len(names) == 1:  # its probability is 1 whatever the picture shows
            problems.append(
                f"{shown(source)}: expected folders of at least two classes, got {excerpt(names[0])} alone; add a "
                "folder of pictures that are something else"
            )
    return problems
