"""A data.yaml: the classes, and where the images of each split are said to lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError

SPLITS = ("train", "val", "test")
"""The splits that a data.yaml may have."""


@dataclass(frozen=True)
class Description:
    """What a data.yaml says.

    Attributes:
        path: the data.yaml.
        root: the folder that the splits are relative to.
        names: class names; a class id is an index into them.
        splits: for each split that the file names, its folders or list files as written.
    """

    path: Path
    root: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]

    def sources(self, split: str) -> tuple[Path, ...]:
        """Return the folders and list files of a split, resolved.

        Raises:
            DataError: the split is not in the file, or something that it names does not exist.
        """
        if split not in self.splits:
            has = ", ".join(self.splits) or "none"
            raise DataError(
                f"{shown(self.path)}: expected a split {split!r}, got {has}; add the line '{split}: images/...'"
            )
        found, problems = [], []
        for entry in self.splits[split]:
            source = (self.root / entry).resolve()
            if not source.exists() and len(self.splits[split]) == 1 and entry.startswith("../"):
                source = (self.root / entry[3:]).resolve()  # Roboflow's exports; Ultralytics reads them so too
            if not source.is_dir() and not (source.is_file() and source.suffix == ".txt"):
                problems.append(
                    f"{shown(self.path)}: expected a folder or a .txt list for {split!r}, got nothing at {source}; "
                    f"that is {entry!r} below {self.root} (a relative 'path' counts from the folder of the data.yaml)"
                )
            found.append(source)
        raise_problems(problems)
        return tuple(found)


def read_description(yaml_path: Path | str) -> Description:
    """Read and check a data.yaml in Ultralytics' layout.

    Keys: `names` (list, or mapping from 0 to n - 1), `train`, `val`, `test` (a folder, a .txt list of images, or a list
    of those), optionally `path` (their root; a relative one counts from the folder of the file) and `nc`.

    Raises:
        DataError: the file is missing, no YAML, or wrong in one of these keys, or of another task than detection.
    """
    path = Path(yaml_path)
    raw = _load(path)
    problems: list[str] = []
    names = _names(raw, problems)
    splits = _splits(raw, problems)
    root = raw.get("path")
    if root is not None and not isinstance(root, str):
        problems.append(f"expected 'path' to be a folder, got {root!r}; leave it out to mean the folder of this file")
        root = None
    if raw.get("kpt_shape") is not None:
        problems.append("expected a detection data set, got 'kpt_shape' (a pose data set); convert its labels to boxes")
    if raw.get("channels", 3) != 3:
        problems.append(f"expected images of 3 channels, got 'channels: {raw['channels']}'; remove the key")
    raise_problems([f"{shown(path)}: {problem}" for problem in problems])
    folder = path.resolve().parent
    return Description(path, (folder / root if root else folder).resolve(), names, splits)


def _load(path: Path) -> dict[Any, Any]:
    """Return the mapping in a YAML file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{shown(path)}: expected a data.yaml, got {error.strerror or error}; check --data") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}: expected UTF-8 text, got other bytes; {error.reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or (str(error).splitlines() or [repr(error)])[0]
        raise DataError(f"{shown(path)}{line}: expected YAML, got a syntax error; {reason}") from error
    if raw is None:
        raise DataError(
            f"{shown(path)}: expected a data.yaml, got an empty file; it needs three lines: 'train: images/train', "
            "'val: images/val' and 'names: [scratch, pit]'"
        )
    if not isinstance(raw, dict):
        raise DataError(
            f"{shown(path)}: expected keys such as 'train' and 'names', got {type(raw).__name__}; see the docs"
        )
    return raw


def _names(raw: dict[Any, Any], problems: list[str]) -> tuple[str, ...]:
    """Return the class names in order of their ids; add what is wrong to `problems`."""
    names = raw.get("names")
    if not isinstance(names, (list, dict)) or not names:
        problems.append("expected 'names' with at least one class name, got none; add 'names: [scratch, pit]'")
        return ()
    if isinstance(names, dict):
        by_id = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if set(by_id) != set(range(len(names))):
            keys = ", ".join(str(key) for key in names)
            problems.append(f"expected 'names' to number its classes 0 to {len(names) - 1}, got {keys}; leave no gap")
            return ()
        names = [by_id[index] for index in range(len(names))]
    bad = [name for name in names if name is None or isinstance(name, (list, dict)) or not str(name).strip()]
    if bad:
        problems.append(f"expected each class name to be text, got {bad[0]!r}; put it into quotes")
    texts = tuple(str(name) for name in names)
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated and not bad:
        problems.append(f"expected distinct class names, got {repeated[0]!r} twice; rename or join them")
    count = raw.get("nc", len(texts))
    if str(count) not in (str(len(texts)), f"{len(texts)}.0"):
        problems.append(f"expected 'nc' to be the number of names, {len(texts)}, got {count!r}; 'nc' may be left out")
    return texts


def _splits(raw: dict[Any, Any], problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the entries of each split that the file names; add what is wrong to `problems`."""
    splits = {}
    for split in SPLITS:
        value = raw.get(split)
        if split == "val" and value is None:
            value = raw.get("validation")  # Ultralytics accepts this name too
        entries = value if isinstance(value, list) else [value]
        if value is None or value == []:
            continue
        if not all(isinstance(entry, str) and entry and "\0" not in entry for entry in entries):
            problems.append(f"expected {split!r} to be a path or a list of paths, got {value!r}; put paths into quotes")
            continue
        splits[split] = tuple(entries)
    return splits
