"""What a split holds, whatever its files are called: for caches, provenance and leaks between splits."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.data.dataset import LabelledImage, Segmentation
from visionlora.data.problems import shown
from visionlora.errors import DataError
from visionlora.files import sha256_of

_THREADS = 8
_HASH_NUMBERS = 8  # of four bytes each


def content_hash(images: Sequence[LabelledImage]) -> str:
    """Return the SHA-256 of a split's image bytes, boxes, class ids, and what is labelled beside, as 64 hex digits.

    Names and places of files, the order of images and the order of boxes do not count.

    Raises:
        DataError: an image can no longer be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return hashlib.sha256("".join(sorted(pool.map(_image_hash, images))).encode()).hexdigest()


def find_shared_images(
    a: Sequence[LabelledImage], b: Sequence[LabelledImage]
) -> tuple[tuple[LabelledImage, LabelledImage], ...]:
    """Return the pairs (image of `a`, image of `b`) whose files hold the same bytes, in the order of `b`.

    A picture that was compressed again or cropped is not recognised.

    Raises:
        DataError: an image can no longer be read.
    """
    images = {image.path: image for image in (*a, *b)}
    pairs = find_shared_files([image.path for image in a], [image.path for image in b])
    return tuple((images[twin], images[path]) for twin, path in pairs)


def find_shared_files(a: Sequence[Path], b: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Return the pairs (file of `a`, file of `b`) that hold the same bytes, in the order of `b`.

    Raises:
        DataError: a file can no longer be read.
    """
    sizes = {_bytes(path) for path in a} & {_bytes(path) for path in b}
    by_hash = defaultdict(list)
    for path in a:
        if _bytes(path) in sizes:
            by_hash[hash_file(path)].append(path)
    candidates = [path for path in b if _bytes(path) in sizes]
    return tuple((twin, path) for path in candidates for twin in by_hash.get(hash_file(path), ()))


def _image_hash(image: LabelledImage) -> str:
    """Hash one image's bytes and its objects, sorted."""
    objects = np.column_stack([image.class_ids, image.boxes_xyxy]).astype("<f8")  # ids and float32 are exact in float64
    if image.areas is not None:
        objects = np.column_stack([objects, image.is_crowd, image.areas]).astype("<f8")
    elif image.is_crowd.any():
        objects = np.column_stack([objects, image.is_crowd]).astype("<f8")
    objects = np.column_stack([objects, *_more(image)]).astype("<f8")
    objects = objects[np.lexsort(objects.T)]
    return hashlib.sha256(hash_file(image.path).encode() + objects.tobytes()).hexdigest()


def _more(image: LabelledImage) -> list[NDArray[Any]]:
    """Return what is labelled beside boxes, a row an object."""
    count, more = len(image.class_ids), []
    if image.keypoints is not None:
        more.append(image.keypoints.reshape(count, image.keypoints.shape[1] * image.keypoints.shape[2]))
    if image.sigmas is not None:
        more.append(np.tile(image.sigmas, (count, 1)))
    if image.obb is not None:
        more.append(image.obb)
    if image.segments is not None:
        more.append(np.array([_segment_hash(segment) for segment in image.segments]).reshape(count, _HASH_NUMBERS))
    return more


def _segment_hash(segment: Segmentation) -> NDArray[np.uint32]:
    """Hash a mask, as numbers that float64 can hold."""
    digest = hashlib.sha256()
    if isinstance(segment, dict):
        digest.update(f"{segment['size']} {segment['counts']}".encode())
    else:
        for polygon in segment:
            digest.update(f"{len(polygon)} ".encode() + np.asarray(polygon, dtype="<f8").tobytes())
    return np.frombuffer(digest.digest(), dtype="<u4")


def hash_file(path: Path) -> str:
    """Hash a file's bytes."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{shown(path)}: expected an image, got none that can be read; {error.strerror}") from error


def _bytes(path: Path) -> int:
    """Return a file's size."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise DataError(f"{shown(path)}: expected an image, got none that can be read; {error.strerror}") from error
