"""A data.yaml, or a folder of classes: the classes, and where the images of each split are said to lie."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionlora.data.class_folders import read_class_folders
from visionlora.data.coco_fields import read_coco
from visionlora.data.forms import Form, form_of
from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.data.reading import decode_utf8, read_bytes
from visionlora.errors import DataError, UsageError
from visionlora.formats.text import class_names, is_unicode, printable
from visionlora.formats.yaml_text import MAX_YAML_BYTES, parse_yaml

SPLITS = ("train", "val", "test")
"""The splits that a data.yaml may have."""
_MOST_KEYPOINTS = 1000
_KEYS = 100
"""Class ids that a message shows."""


@dataclass(frozen=True)
class KeypointLayout:
    """The keypoints that each object of a pose data set has.

    Attributes:
        count: how many.
        dims: 3 where a label says of each whether it is visible, else 2.
        flip: which keypoint each becomes in a mirrored picture; None where the data set does not say.
        sigmas: how far each may lie from its label, as a share of the object's size (COCO's OKS); None: the usual ones.
    """

    count: int
    dims: int
    flip: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Description:
    """What a data.yaml says.

    Attributes:
        path: the data.yaml.
        root: the folder that the splits are relative to.
        names: class names; a class id is an index into them.
        splits: for each split that the file names, its folders or list files as written.
        keypoints: of a pose data set; None for any other.
        by_folder: whether it is a folder of pictures that lie in folders by their class, and no file.
        truths: the COCO file of each split, where labels are such; else empty.
    """

    path: Path
    root: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]
    keypoints: KeypointLayout | None = None
    by_folder: bool = False
    truths: Mapping[str, Path] = field(default_factory=dict)

    def sources(self, split: str) -> tuple[Path, ...]:
        """Return the folders and list files of a split, resolved.

        Raises:
            DataError: the split is not in the file, or something that it names does not exist.
            UsageError: a split that no data.yaml has.
        """
        if split not in SPLITS:
            raise UsageError(f"expected splits among {', '.join(SPLITS)}, got {split!r}")
        if split not in self.splits:
            has = ", ".join(self.splits) or "none"
            add = f"the folder {split}" if self.by_folder else f"the line '{split}: images/...'"
            add = f"a COCO file named alike with {split!r} in its name" if self.truths else add
            if split == "val" and "train" in self.splits and not (self.by_folder or self.truths):
                add += f", or divide the pictures: visionlora data split {shown(self.path)} --out split"
            raise DataError(f"{shown(self.path)}: expected a split {split!r}, got {has}; add {add}")
        if self.truths:
            return (self.truths[split],)
        found, problems = [], []
        for entry in self.splits[split]:
            source = _resolved(self.root / entry)
            if not os.path.exists(source) and len(self.splits[split]) == 1 and entry.startswith("../"):
                source = _resolved(self.root / entry[3:])  # Roboflow's exports; Ultralytics reads them so too
            if not os.path.isdir(source) and not (os.path.isfile(source) and source.suffix == ".txt"):
                got = "another file" if os.path.exists(source) else "nothing"
                problems.append(
                    f"{shown(self.path)}: expected a folder or a .txt list for {split!r}, got {got} at {source}; "
                    f"that is {entry!r} below {self.root} (a relative 'path' counts from the folder of the data.yaml)"
                )
            found.append(source)
        raise_problems(problems)
        return tuple(found)


def read_description(yaml_path: Path | str, *, option: str = "--data") -> Description:
    """Read and check a data.yaml in Ultralytics' layout, or any other form of a data set (see `forms`).

    Class names are text as written: `no` and `007` are no boolean and no number, though YAML 1.1 would have them so.

    Keys: `names` (list, or mapping from 0 to n - 1; without it `nc`, for class_0 to class_(n - 1)), `train`, `val`,
    `test` (a folder, a .txt list of images, or a list of those), optionally `path` (their root; a relative one counts
    from the folder of the file, and where there is none, as in Ultralytics, from the working directory) and `nc`; of a
    pose data set `kpt_shape`, and optionally `flip_idx` and `kpt_oks_sigmas`.
    `option` names the file on the command line.

    Raises:
        DataError: the file is missing, no YAML, or wrong in one of these keys.
    """
    form = form_of(Path(yaml_path))
    path = form.path
    if form.truths:
        return _of_coco(form, option)
    if os.path.isdir(path):
        names, splits = read_class_folders(path, option=option)
        return Description(path, _resolved(path), names, splits, by_folder=True)
    raw = _load(path, option)
    problems: list[str] = []
    names = _names(raw, problems)
    splits = _splits(raw, problems)
    root = raw.get("path")
    if root is not None and not _is_path(root):
        problems.append(
            f"expected 'path' to be a folder, got {excerpt(root)}; leave it out to mean the folder of this file"
        )
        root = None
    keypoints = _keypoints(raw, problems)
    if not _is_number(raw.get("channels", "3"), 3):
        problems.append(f"expected images of 3 channels, got 'channels: {str(raw['channels'])[:20]}'; remove the key")
    raise_problems([f"{shown(path)}: {problem}" for problem in problems])
    folder = _resolved(path).parent
    place = _resolved(folder / root if root else folder)
    if root and not os.path.isdir(place) and os.path.isdir(root):
        place = _resolved(Path(root))
    return Description(path, place, names, splits, keypoints)


def _of_coco(form: Form, option: str) -> Description:
    """Return the description of COCO files, which must name the same classes.

    Raises:
        DataError: one cannot be read, or they name others.
    """
    names = {split: read_coco(path, option=option).names for split, path in form.truths.items()}
    first = next(iter(names))
    raise_problems(
        [
            f"{shown(form.truths[split])}: expected the categories of {shown(form.truths[first])}, "
            f"{excerpt(list(names[first]))}, got {excerpt(list(own))}; list the same ones in both"
            for split, own in names.items()
            if own != names[first]
        ]
    )
    splits = {split: (path.name,) for split, path in form.truths.items()}
    return Description(form.path, _resolved(form.path).parent, names[first], splits, truths=form.truths)


def _resolved(path: Path) -> Path:
    """Return a path without links; unlike `Path.resolve`, of one that links to itself too: it does not exist."""
    return Path(os.path.realpath(path))


def _load(path: Path, option: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; every scalar in it is text as written."""
    text = decode_utf8(read_bytes(path, "a data.yaml", most=MAX_YAML_BYTES, option=option), path)
    try:
        raw = parse_yaml(text)
    except ValueError as error:
        line = getattr(error, "line", None)
        where = f"{shown(path)}:{line}" if line else shown(path)
        raise DataError(f"{where}: expected YAML, got a syntax error; {error}") from error
    if raw is None:
        raise DataError(
            f"{shown(path)}: expected a data.yaml, got an empty file; it needs three lines: 'train: images/train', "
            "'val: images/val' and 'names: [scratch, pit]'"
        )
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else excerpt(raw)
        raise DataError(f"{shown(path)}: expected keys such as 'train' and 'names', got {kind}; see the docs")
    if "annotations" in raw and "names" not in raw:
        raise DataError(
            f"{shown(path)}: expected a data.yaml, got a COCO ground truth; rename it, so that it ends in '.json'"
        )
    return raw


def _names(raw: dict[str, Any], problems: list[str]) -> tuple[str, ...]:
    """Return the class names in order of their ids; add what is wrong to `problems`."""
    names, count = raw.get("names"), raw.get("nc")
    if names is None and isinstance(count, str) and count.isascii() and count.isdigit() and len(count) < 6:
        return tuple(f"class_{index}" for index in range(int(count)))
    if not isinstance(names, list | dict) or not names:
        problems.append("expected 'names' with at least one class name, got none; add 'names: [scratch, pit]'")
        return ()
    if isinstance(names, dict):
        ids = {int(key) for key in names if key.isascii() and key.isdigit() and len(key) < 10}
        if ids != set(range(len(names))):
            keys = printable(", ".join([*list(names)[:_KEYS], *(["..."] if len(names) > _KEYS else [])]))
            problems.append(f"expected 'names' to number its classes 0 to {len(names) - 1}, got {keys}; leave no gap")
            return ()
    try:
        texts = class_names(names)
    except ValueError as error:
        problems.append(f"{error}, in 'names'; put it into quotes, and write characters as they are, not as halves")
        return ()
    repeated = [name for name, count in Counter(texts).items() if count > 1]
    if repeated:
        problems.append(f"expected distinct class names, got {excerpt(repeated[0])} twice; rename or join them")
    count = raw.get("nc", str(len(texts)))
    if not _is_number(count, len(texts)):
        problems.append(
            f"expected 'nc' to be the number of names, {len(texts)}, got {excerpt(count)}; 'nc' may be left out"
        )
    return texts


def _keypoints(raw: dict[str, Any], problems: list[str]) -> KeypointLayout | None:
    """Return what the file says of keypoints, None where it says nothing; add what is wrong to `problems`."""
    shape = raw.get("kpt_shape")
    if shape is None:
        return None
    numbers = _numbers(shape)
    if len(numbers) != 2 or numbers[0] not in range(1, _MOST_KEYPOINTS + 1) or numbers[1] not in (2, 3):
        problems.append(
            f"expected 'kpt_shape' to be [K, 2] or [K, 3] for K keypoints, got {excerpt(shape)}; 3 is for labels that "
            "say of each keypoint whether it is visible"
        )
        return None
    count, dims = map(int, numbers)
    flip, sigmas = raw.get("flip_idx"), raw.get("kpt_oks_sigmas")
    order = _numbers(flip)
    if flip and (sorted(order) != list(range(count)) or any(order[int(order[i])] != i for i in range(count))):
        problems.append(
            f"expected 'flip_idx' to pair keypoints 0 to {count - 1}, each with the one that it becomes in a mirrored "
            f"picture, or with itself, got {excerpt(flip)}; 'flip_idx' may be left out"
        )
        flip = None
    spread = _numbers(sigmas)
    if sigmas and (len(spread) != count or not all(0 < sigma < math.inf for sigma in spread)):
        problems.append(f"expected 'kpt_oks_sigmas' to be {count} numbers above 0, got {excerpt(sigmas)}")
        sigmas = None
    return KeypointLayout(count, dims, tuple(map(int, order)) if flip else None, tuple(spread) if sigmas else None)


def _numbers(value: Any) -> list[float]:
    """Return the numbers in a list of the file, whose scalars are text; none where anything else is in it."""
    try:
        return [float(text) for text in value] if isinstance(value, list) else []
    except (TypeError, ValueError):
        return []


def _is_number(text: Any, number: int) -> bool:
    """Whether a scalar of the file, which is text, means a number: 3, 3.0 or 03."""
    try:
        return isinstance(text, str) and float(text) == number
    except ValueError:
        return False


def _splits(raw: dict[str, Any], problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the entries of each split that the file names; add what is wrong to `problems`."""
    splits = {}
    for split in SPLITS:
        value = raw.get(split)
        if split == "val" and value is None:
            value = raw.get("validation")  # Ultralytics accepts this name too
        entries = value if isinstance(value, list) else [value]
        if value is None or value == []:
            continue
        if not all(_is_path(entry) and entry for entry in entries):
            problems.append(
                f"expected {split!r} to be a path or a list of paths, got {excerpt(value)}; put paths into quotes"
            )
            continue
        splits[split] = tuple(entries)
    return splits


def _is_path(value: Any) -> bool:
    """Whether a value of the file can be the path of a file."""
    return isinstance(value, str) and "\0" not in value and is_unicode(value)
