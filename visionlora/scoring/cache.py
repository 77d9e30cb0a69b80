"""What a model found on a data set, kept on disk under everything that decides about it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from visionlora.data import LabelledImage
from visionlora.errors import OutputError
from visionlora.files import atomic_output, sha256_of
from visionlora.isolation import cache_folder
from visionlora.machine import this_machine, versions_of
from visionlora.scoring.detect_split import SplitDetections
from visionlora.tasks import Task
from visionlora.vision.detections import EVALUATION_CONFIDENCE, IOU_THRESHOLD, MAX_DETECTIONS, Detections

KEPT = 200
"""Results that are kept; the oldest make room."""
_DIGEST_BYTES = 32  # SHA-256 of the key and of what follows, before it: whatever damages a file makes it a miss
_OWN_NAME = re.compile(r"[0-9a-f]{64}\.(found|npz)")  # .npz: those of earlier versions
_PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "torch",
    "ultralytics",
    "openvino",
    "ncnn",
    "ai-edge-litert",
)


def cache_key(files: Sequence[Path], images: Sequence[str], **settings: Any) -> str:
    """Return the SHA-256 of everything that decides what a model finds, as 64 hexadecimal digits.

    That is: the bytes of the model's files and of every image, in order; the settings; the thresholds of the ruler; the
    source of visionlora; the versions of the libraries; and the processor, whose INT8 arithmetic may differ.

    Args:
        files: of the model.
        images: SHA-256 of each image file.
        **settings: whatever else the caller lets decide, as JSON knows it.
    """
    machine = this_machine()
    parts = {
        "files": [sha256_of(file) for file in files],
        "images": list(images),
        "settings": settings,
        "ruler": [EVALUATION_CONFIDENCE, IOU_THRESHOLD, MAX_DETECTIONS],
        "source": _source_hash(),
        "versions": versions_of(_PACKAGES),
        "machine": [machine.cpu, machine.threads],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def image_hashes(images: Sequence[LabelledImage]) -> tuple[str, ...]:
    """Return the SHA-256 of each image file."""
    return tuple(sha256_of(image.path) for image in images)


def load_found(key: str, task: Task) -> SplitDetections | None:
    """Return what is kept under a key of a model's task, or None where there is nothing or the file is damaged."""
    try:
        content = _path(key).read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(key.encode() + content).digest() != digest:  # also a file under another name
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in ("boxes", "scores", "class_ids", "counts", "classes")}
    ends = np.cumsum(arrays["counts"])[:-1]
    parts = (np.split(arrays[name], ends) for name in ("boxes", "scores", "class_ids"))
    return SplitDetections(tuple(map(Detections, *parts)), tuple(arrays["classes"].tolist()), task)


def keep_found(key: str, found: SplitDetections) -> None:
    """Keep a result under its key; a full or read-only disk is no reason to fail, as the result is there."""
    one = found.detections
    arrays: dict[str, Any] = {
        "boxes": np.concatenate([detections.boxes_xyxy for detections in one]),
        "scores": np.concatenate([detections.scores for detections in one]),
        "class_ids": np.concatenate([detections.class_ids for detections in one]),
        "counts": np.array([len(detections) for detections in one]),
        "classes": np.array(found.classes, dtype=np.str_),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    digest = hashlib.sha256(key.encode() + buffer.getvalue()).digest()
    try:
        with atomic_output(_path(key)) as partial:
            partial.write_bytes(digest + buffer.getvalue())
    except OutputError:
        return
    with suppress(OSError):  # another evaluation may be making room too
        _make_room()


def _make_room() -> None:
    """Remove the oldest results; the folder may be the user's own, so nothing else in it is touched."""
    own = [path for path in cache_folder().iterdir() if _OWN_NAME.fullmatch(path.name)]
    for path in sorted(own, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_folder() / f"{key}.found"


@cache
def _source_hash() -> str:
    """Hash this package's own code: a development version must not read what the one before found."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}\0".encode())
    return digest.hexdigest()
