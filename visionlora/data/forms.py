"""What `--data` may name: a data.yaml, a folder with one, a folder of classes, COCO files, a .zip of these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from visionlora.data.problems import shown
from visionlora.data.zipped import unpacked
from visionlora.errors import DataError
from visionlora.formats.kinds import BUNDLE

_WORDS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_WORD = re.compile(r"(?<![a-z])(train|validation|valid|val|test)(?![a-z])")
_JSON = ".json"
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True)
class Form:
    """Where a data set is described.

    Attributes:
        path: the data.yaml, the folder of classes, or the first COCO file.
        truths: the COCO file of each split; empty for any other form.
    """

    path: Path
    truths: dict[str, Path] = field(default_factory=dict)


def form_of(data: Path) -> Form:
    """Return what a path names.

    Of a folder it is the one YAML file in it, COCO files in it, else its folders of classes. A COCO file belongs to the
    split whose word (`train`, `val`, `valid`, `validation`, `test`) its name holds, or its folder is named, and brings
    the files that differ in this word alone; without such a word it is `train`.

    Raises:
        DataError: a folder has several YAML files, or a .zip cannot be unpacked.
    """
    if data.suffix.lower() == BUNDLE.suffix and os.path.isfile(data):
        data = unpacked(data)
    if data.suffix.lower() == _JSON:
        return Form(data, _beside(data))
    if not os.path.isdir(data):
        return Form(data)
    described = _yaml_in(data)
    if described is not None:
        return Form(described)
    truths = next((found for path in _coco_in(data) if (found := _beside(path))), {})
    return Form(next(iter(truths.values())), truths) if truths else Form(data)


def _yaml_in(folder: Path) -> Path | None:
    """Return the YAML file in a folder: the only one, or the one named data or like the folder.

    Source: Ultralytics' `find_dataset_yaml`.
    """
    for suffix in (".yaml", ".yml"):
        found = sorted(path for path in _entries(folder) if path.suffix.lower() == suffix)
        named = [path for path in found if path.stem in ("data", folder.name)] if len(found) > 1 else found
        if len(named) == 1:
            return named[0]
        if found:
            names = ", ".join(path.name for path in found[:5])
            raise DataError(f"{shown(folder)}: expected one data.yaml, got {names}; name the file")
    return None


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    except OSError:  # told by whoever reads it
        return []


def _coco_in(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that may be COCO ground truths, those of train first."""
    places = [folder / word for words in _WORDS.values() for word in words]
    yield from (place / _ROBOFLOW for place in (*places, folder) if (place / _ROBOFLOW).is_file())
    for place in (folder / "annotations", folder):
        files = sorted(path for path in _entries(place) if path.suffix.lower() == _JSON)
        words = [path for path in files if _WORD.search(path.stem)]
        yield from sorted(words, key=lambda path: (not path.name.startswith("instances"), "train" not in path.name))


def _beside(path: Path) -> dict[str, Path]:
    """Return the COCO file of each split, of which one is given, in the order of the splits."""
    folder = path.absolute().parent.name
    for part, match in ((path.name, _WORD.search(path.name)), (folder, _WORD.fullmatch(folder))):
        if match is None:
            continue
        truths = {}
        for split, words in _WORDS.items():
            for word in (match.group(), *words) if match.group() in words else words:
                other = part[: match.start()] + word + part[match.end() :]
                place = path.with_name(other) if part == path.name else path.parent.with_name(other) / path.name
                if split not in truths and (place == path or place.is_file()):
                    truths[split] = place
        return truths
    return {"train": path}
