"""Every model's matches on every image, in a file beside the report, for the intervals of later comparisons."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError
from visionlora.files import atomic_output, sha256_of
from visionlora.formats.text import printable
from visionlora.scoring import IOU_THRESHOLDS, Matches

FILE = "report_images.npz"
_BITS = 1 << np.arange(len(IOU_THRESHOLDS))
_ARRAYS = ("names", "objects", "images", "columns", "scores", "right", "counted")
_UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What numpy and zipfile raise on damaged content, as fuzzing found."""


@dataclass(frozen=True)
class PerImage:
    """The file beside the report that holds every model's matches, for intervals of later comparisons."""

    file: str
    sha256: str


@dataclass(frozen=True, eq=False)
class ImageResults:
    """What the file holds: SHA-256 of each image, and the matches of each model by its label."""

    image_hashes: tuple[str, ...]
    matches: Mapping[str, Matches]


def write_image_results(path: Path, image_hashes: Sequence[str], matches: Mapping[str, Matches]) -> PerImage:
    """Write the file; return what the report says of it.

    Detections below the last right one of their class are left out: no choice of the images gives them a part in an
    average precision.
    """
    arrays: dict[str, Any] = {
        "image_hashes": np.array(image_hashes),
        "labels": np.array(list(matches), dtype=np.str_),
    }
    for index, shortened in enumerate(map(_without_tails, matches.values())):
        for name in _ARRAYS:
            arrays[f"{index}.{name}"] = _packed(np.asarray(getattr(shortened, name)))
    with atomic_output(path) as partial:
        np.savez_compressed(partial, **arrays)
    return PerImage(path.name, sha256_of(path))


def read_image_results(report_path: Path, entry: PerImage | None) -> ImageResults | None:
    """Read the file beside a report; None where the report has none or it is no longer there.

    Args:
        report_path: of report.json.
        entry: what the report says of the file.

    Raises:
        DataError: the file is not the one that the report was written with.
    """
    if entry is None:
        return None
    if Path(entry.file).name != entry.file:
        raise DataError(f"{report_path}: expected the name of a file beside the report, got {printable(entry.file)}")
    path = report_path.parent / entry.file
    if not path.is_file():
        return None
    if sha256_of(path) != entry.sha256:
        raise DataError(f"{path}: expected the file that {report_path} was written with, got another; evaluate again")
    try:
        with np.load(path, allow_pickle=False) as kept:
            labels = kept["labels"].tolist()
            matches = {
                label: Matches(
                    tuple(kept[f"{index}.names"].tolist()),
                    *(kept[f"{index}.{name}"] for name in _ARRAYS[1:5]),
                    *((kept[f"{index}.{name}"][:, None] & _BITS) > 0 for name in _ARRAYS[5:]),
                )
                for index, label in enumerate(labels)
            }
            results = ImageResults(tuple(kept["image_hashes"].tolist()), matches)
            _check(results)
            return results
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected results of images, got something else: {error}") from error


def _check(results: ImageResults) -> None:
    """Refuse arrays that do not belong together.

    Raises:
        ValueError: the message says which.
    """
    for label, matches in results.matches.items():
        shape, found = (len(results.image_hashes), len(matches.names)), len(matches.scores)
        right = (
            matches.objects.shape == shape
            and matches.images.shape == matches.columns.shape == matches.scores.shape == (found,)
        )
        right = right and matches.right.shape == matches.counted.shape == (found, len(IOU_THRESHOLDS))
        right = right and all(array.dtype.kind == "i" for array in (matches.objects, matches.images, matches.columns))
        right = right and matches.scores.dtype.kind == "f" and bool(np.isfinite(matches.scores).all())
        if right and found:
            right = matches.images.min() >= 0 and matches.images.max() < shape[0]
            right = right and matches.columns.min() >= 0 and matches.columns.max() < shape[1]
            right = right and bool((np.diff(matches.columns) >= 0).all())
        if not right:
            raise ValueError(f"the matches of {label!r} are not of one data set")


def _without_tails(matches: Matches) -> Matches:
    kept = np.zeros(len(matches.scores), dtype=bool)
    for column in range(len(matches.names)):
        rows = matches.of_class(column)
        hits = np.flatnonzero(matches.right[rows].any(axis=1))
        if len(hits):
            kept[rows.start : rows.start + hits[-1] + 1] = True
    arrays = {name: getattr(matches, name)[kept] for name in _ARRAYS[2:]}
    return replace(matches, **arrays)


def _packed(array: NDArray[Any]) -> NDArray[Any]:
    """Return (N, 10) bools as ten bits of a number, anything else as it is."""
    return (array @ _BITS).astype(np.uint16) if array.dtype == bool else array
