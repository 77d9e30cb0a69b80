"""What makes scores doubtful: pictures that were trained on, copies and empty pictures, networks that see nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from visionlora.data import LabelledImage, image_paths, read_labelled
from visionlora.files import sha256_of
from visionlora.int8.scheme import WEIGHTS
from visionlora.reporting.formatting import code, join_words, name_words
from visionlora.reporting.report import Report
from visionlora.scoring import NEXT_TO_NOTHING, SplitDetections
from visionlora.vision.detections import EVALUATION_CONFIDENCE

_THREADS = 8
_CONSTANT_RANGE = 8
"""Levels that a picture of one colour may have: a JPEG of one colour has a few."""
_HEADER_BYTES = 20_000
"""More than a header with a thumbnail and a colour profile takes."""
_BYTES_A_PIXEL = {".jpg": 0.25, ".jpeg": 0.25, ".webp": 0.25, ".png": 1.25}
"""More than a picture of one colour takes, with the noise that it may have; of other formats any file may be one."""
_FEWEST = 3
"""Pictures with the same scores that say that a network does not look at them."""


def data_doubts(
    data: Path | str, split: str, images: Sequence[LabelledImage], hashes: Sequence[str]
) -> tuple[str, ...]:
    """Return a sentence for what is doubtful about the pictures of a split.

    Args:
        data: the data.yaml, whose training pictures are looked for among them; a COCO ground truth names none.
        split: which of its splits they are.
        images: of the split.
        hashes: SHA-256 of each image file.

    Raises:
        DataError: a picture can no longer be read.
    """
    folder, total = Path(data).parent, len(images)
    by_hash: dict[str, LabelledImage] = {}
    copies = []
    for image, sha256 in zip(images, hashes, strict=True):
        if sha256 in by_hash:
            copies.append((image, by_hash[sha256]))
        by_hash.setdefault(sha256, image)
    sentences = []
    twins = {} if split == "train" else _training_twins(data, set(hashes), {os.path.getsize(i.path) for i in images})
    shared = [(image, twins[sha256]) for image, sha256 in zip(images, hashes, strict=True) if sha256 in twins]
    if shared:
        here, twin = shared[0][0].path, shared[0][1]
        such = _shown(here, folder) + ("" if twin == here else f" ({_shown(twin, folder)} there)")
        sentences.append(
            f"Pictures that are in the split train too: {len(shared)} of {total}, such as {such}; a model that was "
            "trained on them looks better than it is."
        )
    if copies:
        copy, first = copies[0][0].path, copies[0][1].path
        sentences.append(
            f"Pictures that are copies of others among them: {len(copies)} of {total}, such as {_shown(copy, folder)} "
            f"of {_shown(first, folder)}; what they show counts more than once."
        )
    empty = _constant(images)
    if empty:
        such = _shown(empty[0].path, folder)
        sentences.append(f"Pictures of one colour and nothing else: {len(empty)} of {total}, such as {such}.")
    return tuple(sentences)


def training_doubts(report: Report, trained_on: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the models whose card says that they were trained on the very pictures and boxes of the report.

    Args:
        report: the numbers.
        trained_on: what the card of a model, by its label, calls the content hash of its training data.
    """
    known = [row for row in report.rows if trained_on.get(row.label) == report.data.content_hash]
    adapters = {sha256 for row in known for sha256 in (row.sha256, row.parents.get("adapter")) if sha256}
    labels = [
        code(row.label) for row in report.rows if row in known or adapters & {row.sha256, row.parents.get("adapter")}
    ]
    if not labels:
        return ()
    was = "was" if len(labels) == 1 else "were"
    return (f"{join_words(labels)} {was} trained on these very pictures, as the card says: the scores flatter.",)


def saturation_doubts(report: Report) -> tuple[str, ...]:
    """Name the int8 files for x86 whose sums saturate on a CPU without integer dot products, which this one is."""
    schemes = {row.label: (row.settings or {}).get("scheme") for row in report.rows}
    labels = [
        code(label)
        for label, scheme in schemes.items()
        if isinstance(scheme, Mapping) and scheme.get("name") == "x86" and scheme.get("weights") != WEIGHTS["int7"]
    ]
    if not labels:
        return ()
    words = ("finds", "it") if len(labels) == 1 else ("find", "them")
    return (
        f"{join_words(labels)} {words[0]} less here than elsewhere: this CPU has no integer dot products (VNNI), and "
        f"sums saturate. For such CPUs quantize {words[1]} with `--weights int7`.",
    )


def network_doubts(found: Mapping[str, SplitDetections], scores: Mapping[str, float | None]) -> tuple[str, ...]:
    """Name the models that find nothing, and those that find the same whatever they are shown: the files may be broken.

    Where all the others find next to nothing too, it is the training that was too short.

    Args:
        found: what each model found, by its label.
        scores: mAP50-95 of each, by its label; None where it has none.
    """
    sentences = []
    judged = [scores[label] or 0.0 for label, result in found.items() if result.classes]
    untrained = len(judged) > 1 and max(judged) < NEXT_TO_NOTHING
    cause = (
        "no other model finds more than next to nothing either, so it has learned too little yet: train for more epochs"
        if untrained
        else "the file may be broken"
    )
    for label, result in found.items():
        if not result.classes:
            continue
        first, count = result.detections[0].scores, len(result.detections)
        if not any(len(detections) for detections in result.detections):
            sentences.append(
                f"{code(label)} finds nothing on any of the {count} pictures, not even at score "
                f"{EVALUATION_CONFIDENCE:g}: {cause}."
            )
        elif count >= _FEWEST and all(np.array_equal(first, each.scores) for each in result.detections):
            sentences.append(
                f"{code(label)} gives the same scores on all of the {count} pictures, as if it did not look at them: "
                f"{cause}."
            )
    return tuple(sentences)


def _training_twins(data: Path | str, hashes: set[str], sizes: set[int]) -> dict[str, Path]:
    """Return the training pictures that hold the bytes of these hashes; what cannot be read is no twin."""
    if Path(data).suffix.lower() == ".json":
        return {}
    candidates = [path for path in image_paths(data, "train") if path.is_file() and os.path.getsize(path) in sizes]
    with ThreadPoolExecutor(_THREADS) as pool:
        twins = dict(zip(pool.map(_hash, reversed(candidates)), reversed(candidates), strict=True))  # the first wins
    return {sha256: path for sha256, path in twins.items() if sha256 in hashes}


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:  # training says so where it matters
        return ""


def _constant(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Return the pictures of one colour; files too large to be one are not decoded."""

    def is_constant(image: LabelledImage) -> bool:
        pixels = read_labelled(image)
        return int(np.ptp(pixels.reshape(-1, 3), axis=0).max()) <= _CONSTANT_RANGE

    small = [image for image in images if _may_be_constant(image)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [image for image, empty in zip(small, pool.map(is_constant, small), strict=True) if empty]


def _may_be_constant(image: LabelledImage) -> bool:
    width, height = image.size_wh
    limit = _BYTES_A_PIXEL.get(image.path.suffix.lower())
    return limit is None or os.path.getsize(image.path) <= _HEADER_BYTES + limit * width * height


def _shown(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, as it can stand in a sentence."""
    return name_words(Path(os.path.relpath(path, folder)).as_posix())
