"""A data set divided into train, val and test, folds or few shots: lists of pictures, which stay where they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from visionlora.data.description import SPLITS, Description, read_description
from visionlora.data.grouping import bursts, join, near_duplicates, same_files, same_name
from visionlora.data.labels import count_classes, label_path
from visionlora.data.listing import list_pictures
from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.data.stratify import assign
from visionlora.errors import DataError, OutputError, UsageError
from visionlora.files import refuse_existing
from visionlora.formats.text import class_names, printable

DATA_YAML = "data.yaml"


@dataclass(frozen=True)
class SplitData:
    """A data set as it was divided.

    Attributes:
        out: the folder that was written.
        files: each data.yaml in it.
        names: class names.
        pictures: of each list that was written, such as `train` or `val-fold-1`.
        objects: of each list, how many objects of each class.
        groups: how many groups of pictures that stay together there are.
        notes: what is good to know, a sentence each.
    """

    out: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    pictures: Mapping[str, int]
    objects: Mapping[str, tuple[int, ...]]
    groups: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table of classes, a column a list, and the notes."""
        rows = [["objects", *self.pictures]]
        rows += [
            [printable(name), *(str(counts[index]) for counts in self.objects.values())]
            for index, name in enumerate(self.names)
        ]
        rows.append(["pictures", *map(str, self.pictures.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures with how many objects of each class they show, (N, classes), and which belong together, (N,)."""

    paths: tuple[Path, ...]
    counts: NDArray[np.int64]
    groups: NDArray[np.int64]


def split_data(
    data: Path | str,
    out: Path | str,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    group: str | None = None,
    near_duplicates: int | None = None,
    burst: float | None = None,
    folds: int | None = None,
    shots: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> SplitData:
    """Divide the pictures of a data set, and write a data.yaml with lists of them; no picture is copied or changed.

    The pictures of train and val are divided; a test that the data.yaml names stays as it is. Each part gets its share
    of the pictures of every class, as far as groups allow. Files of the same bytes are always one group.

    Args:
        data: the data.yaml; a folder that holds one; or, with `names`, a folder of pictures.
        out: the folder to write.
        val: share of the pictures.
        test: share of the pictures; 0 for none.
        seed: which of the equally good choices.
        group: a regular expression; pictures in whose file names its first group matches the same text stay together.
            One that holds a `/` is searched in the whole path.
        near_duplicates: pictures whose perceptual hashes differ by so many of 64 bits at most stay together.
        burst: pictures that one camera took so many seconds after each other at most stay together, by EXIF.
        folds: write so many pairs of train and val instead, `data-fold-1.yaml` and so on: each picture is in one val.
        shots: beside all of train, write subsets `data-5-shots.yaml` in which each class is shown by so many pictures
            at least, where there are so many; a smaller one is part of a larger one.
        names: the class names of a folder without a data.yaml.
        overwrite: replace the files of an earlier division.

    Raises:
        DataError: a file cannot be read, a label names no class, a picture's name does not match `group`, no picture
            says when it was taken, or there are fewer groups than parts.
        UsageError: an option is out of range, or `out` holds the data.yaml itself.
        OutputError: `out` holds a division already, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> print(vl.split_data("data.yaml", "split", group="(board[0-9]+)_"))  # doctest: +SKIP
    """
    _check(val, test, folds, shots)
    out = Path(out)
    description = _described(Path(data), names)
    parts = _parts(val, test, folds)
    lists = _list_names(parts, folds, shots, description)
    if description.path.resolve().parent == out.resolve() and description.path.name in _yaml_names(folds, shots):
        raise UsageError(f"--out {out}: expected another folder than that of {shown(description.path)}; choose another")
    for name in (*_yaml_names(folds, shots), *(f"{name}.txt" for name in lists)):
        refuse_existing(out / name, overwrite=overwrite)
    pool = [split for split in ("train", "val") if split in description.splits]
    kept = "test" in description.splits
    if kept and test:
        raise UsageError(
            f"--test {test:g}: expected 0, for {shown(description.path)} names a test, which stays; leave it out there"
        )
    pictures, notes = _read(description, pool, group, near_duplicates, burst)
    chosen = _divided(pictures, parts, seed)
    sets = {part: [i for i, at in enumerate(chosen) if at == number] for number, part in enumerate(parts)}
    if folds is not None:
        sets = _in_folds(sets, folds)
    members = sets.get("train", [])
    for count in sorted(shots or (), reverse=True):  # each one out of the larger one
        members = few_shots(members, pictures.counts, count, seed=seed)
        sets[f"train-{count}-shots"] = members
    held = _read(description, ["test"], None, None, None)[0] if kept else None
    groups = len(set(pictures.groups.tolist()))
    result = SplitData(
        out,
        tuple(out / name for name in _yaml_names(folds, shots)),
        description.names,
        {name: len(sets[name]) if name in sets else len(held.paths) for name in lists},  # type: ignore[union-attr]
        {
            name: tuple((pictures.counts[sets[name]] if name in sets else held.counts).sum(axis=0).tolist())  # type: ignore[union-attr]
            for name in lists
        },
        groups,
        (),
    )
    result = replace(result, notes=(*notes, *_missing(result)))
    paths = {name: [pictures.paths[i] for i in sets[name]] if name in sets else held.paths for name in lists}  # type: ignore[union-attr]
    _write(out, paths, description, folds, shots)
    return result


def few_shots(members: Sequence[int], counts: NDArray[np.int64], shots: int, *, seed: int) -> list[int]:
    """Return some of the pictures, so that each class is shown by `shots` of them, or by all that show it.

    Rare classes first; a picture counts for every class that it shows.

    Args:
        members: indices of the pictures to choose from.
        counts: (N, classes) objects.
        shots: pictures a class.
        seed: which pictures.
    """
    shows = counts > 0
    order = np.random.default_rng(seed).permutation(np.asarray(members, dtype=np.int64))
    chosen: list[int] = []
    for class_id in np.argsort(shows[order].sum(axis=0), kind="stable").tolist():
        have = int(shows[chosen, class_id].sum())
        more = [index for index in order.tolist() if shows[index, class_id] and index not in chosen]
        chosen += more[: max(shots - have, 0)]
    return sorted(chosen)


def _check(val: float, test: float, folds: int | None, shots: Sequence[int] | None) -> None:
    problems = [
        f"{name}: expected a share from 0 to below 1, got {share:g}"
        for name, share in (("--val", val), ("--test", test))
        if not 0 <= share < 1
    ]
    if not problems and (val <= 0 or val + test >= 1) and folds is None:
        problems.append(f"--val {val:g} --test {test:g}: expected a val above 0 that leaves something to train on")
    if folds is not None and folds < 2:
        problems.append(f"--folds: expected at least 2, got {folds}")
    if folds is not None and shots:
        problems.append("--folds and --shots: expected one of the two")
    problems += [f"--shots: expected at least 1, got {count}" for count in shots or () if count < 1]
    if problems:
        raise UsageError("; ".join(problems))


def _described(data: Path, names: Sequence[str] | None) -> Description:
    """Return what a data.yaml, that of a folder, or a folder with `names` says."""
    inside = data / DATA_YAML
    if data.is_dir() and inside.is_file():
        data = inside
    if data.is_dir():
        if names is None:
            raise DataError(
                f"{shown(data)}: expected a data.yaml, or a folder that holds one, got a folder without; name the "
                "classes in the order of their ids: --names scratch pit"
            )
        try:
            texts = class_names(list(names))
        except ValueError as error:
            raise UsageError(f"--names: {error}") from error
        return Description(data / DATA_YAML, Path(os.path.realpath(data)), texts, {"train": (".",)})
    if names is not None:
        raise UsageError(f"--names: expected none, for {shown(data)} names the classes; leave it out")
    return read_description(data)


def _parts(val: float, test: float, folds: int | None) -> dict[str, float]:
    """Return the share of each part."""
    if folds is None:
        parts = {"train": 1 - val - test, "val": val}
    else:
        parts = {f"val-fold-{number}": (1 - test) / folds for number in range(1, folds + 1)}
    return {**parts, "test": test} if test else parts


def _list_names(
    parts: Mapping[str, float], folds: int | None, shots: Sequence[int] | None, description: Description
) -> tuple[str, ...]:
    held = ["test"] if "test" in parts or "test" in description.splits else []
    if folds is None:
        return ("train", *(f"train-{count}-shots" for count in sorted(shots or ())), "val", *held)
    return (*(f"{part}-fold-{number}" for number in range(1, folds + 1) for part in ("train", "val")), *held)


def _yaml_names(folds: int | None, shots: Sequence[int] | None) -> tuple[str, ...]:
    if folds is not None:
        return tuple(f"data-fold-{number}.yaml" for number in range(1, folds + 1))
    return (DATA_YAML, *(f"data-{count}-shots.yaml" for count in sorted(shots or ())))


def _read(
    description: Description, splits: Sequence[str], group: str | None, distance: int | None, burst: float | None
) -> tuple[_Pictures, list[str]]:
    """Return the pictures of some splits, which belong together, and what is to be said of them."""
    sources = tuple(source for split in splits for source in description.sources(split))
    paths = tuple(list_pictures(sources, shown(description.path)))
    counted = [count_classes(label_path(path), len(description.names)) for path in paths]
    problems = [problem for _, found in counted for problem in found]
    problems += [
        f"{shown(path)}: expected a name that a line of a list can hold, got {excerpt(str(path))}; rename it"
        for path in paths
        if str(path) != str(path).strip() or len(str(path).splitlines()) != 1
    ]
    raise_problems(problems)
    links, notes = same_files(paths), []
    if group is not None:
        links += same_name(paths, group)
    if distance is not None:
        links += near_duplicates(paths, distance)
    if burst is not None:
        more, known = bursts(paths, burst)
        links += more
        if known < len(paths):
            notes.append(f"{len(paths) - known} of {len(paths)} pictures do not say when they were taken: each alone.")
    return _Pictures(paths, np.stack([counts for counts, _ in counted]), join(len(paths), links)), notes


def _divided(pictures: _Pictures, parts: Mapping[str, float], seed: int) -> list[int]:
    """Return the part of each picture."""
    shows = np.column_stack([pictures.counts > 0, pictures.counts.sum(axis=1) == 0]).astype(np.int64)
    count = int(pictures.groups.max()) + 1
    together = np.zeros((count, shows.shape[1]), dtype=np.int64)
    np.add.at(together, pictures.groups, shows)
    at = assign(together, np.bincount(pictures.groups, minlength=count), list(parts.values()), seed=seed)
    empty = [part for number, part in enumerate(parts) if number not in at]
    if empty:
        raise DataError(
            f"expected pictures for {', '.join(empty)}, got {len(pictures.paths)} pictures in {count} groups that stay "
            "together, too few for these shares; give larger ones, or a pattern of smaller groups"
        )
    return at[pictures.groups].tolist()


def _in_folds(sets: Mapping[str, list[int]], folds: int) -> dict[str, list[int]]:
    """Return train and val of each fold: train is the val of all others."""
    found = {name: members for name, members in sets.items() if name == "test"}
    for number in range(1, folds + 1):
        others = [sets[f"val-fold-{other}"] for other in range(1, folds + 1) if other != number]
        found[f"train-fold-{number}"] = sorted(index for members in others for index in members)
        found[f"val-fold-{number}"] = sets[f"val-fold-{number}"]
    return found


def _missing(result: SplitData) -> list[str]:
    """Return a sentence for each list that shows no object of a class that another one shows."""
    totals = np.sum(list(result.objects.values()), axis=0)
    sentences = []
    for name, counts in result.objects.items():
        absent = [
            printable(one) for one, count, of in zip(result.names, counts, totals, strict=True) if of and not count
        ]
        if absent:
            sentences.append(f"{name} shows no object of: {', '.join(absent)}.")
    return sentences


def _write(
    out: Path,
    lists: Mapping[str, Sequence[Path]],
    description: Description,
    folds: int | None,
    shots: Sequence[int] | None,
) -> None:
    """Write the lists and after them each data.yaml that names them; all are made beside first."""
    if folds is None:
        trains = {DATA_YAML: "train"} | {f"data-{count}-shots.yaml": f"train-{count}-shots" for count in shots or ()}
        pairs = {name: (train, "val") for name, train in trains.items()}
    else:
        pairs = {f"data-fold-{n}.yaml": (f"train-fold-{n}", f"val-fold-{n}") for n in range(1, folds + 1)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".split.", dir=out) as beside:
            for name, paths in lists.items():
                text = "".join(f"{os.path.abspath(path)}\n" for path in paths)
                (Path(beside) / f"{name}.txt").write_bytes(os.fsencode(text))
            for name, (train, val) in pairs.items():
                used = {"train": train, "val": val} | ({"test": "test"} if "test" in lists else {})
                (Path(beside) / name).write_text(_yaml_text(used, description), encoding="utf-8")
            for file in sorted(Path(beside).iterdir(), key=lambda path: path.suffix):  # .txt before .yaml
                os.replace(file, out / file.name)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


def _yaml_text(used: Mapping[str, str], description: Description) -> str:
    content: dict[str, Any] = {split: f"{used[split]}.txt" for split in SPLITS if split in used}
    content["names"] = dict(enumerate(description.names))
    layout = description.keypoints
    if layout is not None:
        content["kpt_shape"] = [layout.count, layout.dims]
        content |= {"flip_idx": list(layout.flip)} if layout.flip is not None else {}
        content |= {"kpt_oks_sigmas": list(layout.sigmas)} if layout.sigmas is not None else {}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
