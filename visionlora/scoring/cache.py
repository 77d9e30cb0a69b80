"""What a model found on a data set, kept on disk under everything that decides about it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
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
from visionlora.vision.masks import RleMasks

KEPT = 200
"""Results that are kept; the oldest make room."""
_DIGEST_BYTES = 32  # SHA-256 of the key and of what follows, before it: whatever damages a file makes it a miss
_OWN_NAME = re.compile(r"[0-9a-f]{64}\.(found|npz)")  # .npz: those of earlier versions
_ARRAYS = ("boxes_xyxy", "scores", "class_ids", "keypoints", "obb")
"""Fields of `Detections` that are arrays of a row a detection."""
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
        arrays = {name: kept[name] for name in kept.files}
    ends = np.cumsum(arrays["counts"])[:-1]
    fields: dict[str, Any] = {name: np.split(arrays[name], ends) for name in _ARRAYS if name in arrays}
    if "rles" in arrays:
        texts = iter(arrays["rles"].tobytes().decode("ascii").split("\n"))
        pairs = zip(arrays["counts"].tolist(), arrays["sizes"].tolist(), strict=True)
        fields["masks"] = [_masks(tuple(islice(texts, count)), size) for count, size in pairs]
    found = [Detections(**dict(zip(fields, one, strict=True))) for one in zip(*fields.values(), strict=True)]
    return SplitDetections(tuple(found), tuple(arrays["classes"].tolist()), task)


def keep_found(key: str, found: SplitDetections) -> None:
    """Keep a result under its key; a full or read-only disk is no reason to fail, as the result is there."""
    one = found.detections
    fields = {name: [getattr(detections, name) for detections in one] for name in _ARRAYS}
    arrays: dict[str, Any] = {
        **{name: np.concatenate(values) for name, values in fields.items() if not _missing(values)},
        "counts": np.array([len(detections) for detections in one]),
        "classes": np.array(found.classes, dtype=np.str_),
    }
    masks = [detections.masks for detections in one if detections.masks is not None]
    if len(masks) == len(one):
        texts = [each.rle(index)["counts"].encode() for each in masks for index in range(len(each))]
        arrays["rles"] = np.frombuffer(b"\n".join(texts), dtype=np.uint8)  # in rows of one length, gaps take gigabytes
        arrays["sizes"] = np.array([each.size_wh for each in masks]).reshape(-1, 2)
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


def _missing(values: Sequence[Any]) -> bool:
    return any(value is None for value in values)


def _masks(texts: Sequence[str], size_wh: Sequence[int]) -> RleMasks:
    width, height = size_wh
    return RleMasks(tuple({"size": [height, width], "counts": text} for text in texts), (width, height))


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
