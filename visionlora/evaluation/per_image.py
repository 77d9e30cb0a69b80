"""Every model's matches on every image, in a file beside the report, for the intervals of later comparisons."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError
from visionlora.evaluation.matches import IOU_THRESHOLDS, Matches
from visionlora.evaluation.report import PerImage, Report
from visionlora.files import atomic_output, sha256_of

FILE = "report_images.npz"
_BITS = 1 << np.arange(len(IOU_THRESHOLDS))
_ARRAYS = ("names", "objects", "images", "columns", "scores", "right", "counted")


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
    for index, one in enumerate(map(_without_tails, matches.values())):
        for name in _ARRAYS:
            arrays[f"{index}.{name}"] = _packed(np.asarray(getattr(one, name)))
    with atomic_output(path) as partial:
        np.savez_compressed(partial, **arrays)
    return PerImage(path.name, sha256_of(path))


def read_image_results(report_path: Path, report: Report) -> ImageResults | None:
    """Read the file beside a report; None where the report has none or it is no longer there.

    Raises:
        DataError: the file is not the one that the report was written with.
    """
    if report.per_image is None:
        return None
    path = report_path.parent / report.per_image.file
    if not path.is_file():
        return None
    if sha256_of(path) != report.per_image.sha256:
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
            return ImageResults(tuple(kept["image_hashes"].tolist()), matches)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected results of images, got something else: {error}") from error


def _without_tails(matches: Matches) -> Matches:
    kept = np.zeros(len(matches.scores), dtype=bool)
    for column in range(len(matches.names)):
        rows = matches.of_class(column)
        hits = np.flatnonzero(matches.right[rows].any(axis=1))
        if len(hits):
            kept[rows.start : rows.start + hits[-1] + 1] = True
    arrays = {name: getattr(matches, name)[kept] for name in _ARRAYS[2:]}
    return replace(matches, **arrays)


def _packed(array: NDArray) -> NDArray:
    """Return (N, 10) bools as ten bits of a number, anything else as it is."""
    return (array @ _BITS).astype(np.uint16) if array.dtype == bool else array
