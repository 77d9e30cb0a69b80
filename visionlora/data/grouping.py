"""Which pictures belong together, so that none of them is judged by a model that has seen its twin."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionlora.data.content import hash_file
from visionlora.data.images import taken
from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.errors import DataError, UsageError
from visionlora.progress import tracked
from visionlora.vision.preprocess import read_image

HASH_BITS = 64
_THREADS = 8
_BLOCK = 1024  # pictures that are compared with all at once


def join(count: int, links: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the group of each of `count` pictures, numbered by its first picture, where links join two each.

    Example:
        >>> join(4, [(3, 1)]).tolist()
        [0, 1, 2, 1]
    """
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in links:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    _, groups = np.unique([root(index) for index in range(count)], return_inverse=True)
    return groups.astype(np.int64)


def same_files(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return links between pictures whose files hold the same bytes.

    Raises:
        DataError: a file can no longer be read.
    """
    try:
        sizes = [os.path.getsize(path) for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename}: expected an image, got none that can be read; {error.strerror}") from error
    shared = {size for size, times in Counter(sizes).items() if times > 1}
    return _linked((i, hash_file(path)) for i, path in enumerate(paths) if sizes[i] in shared)


def same_name(paths: Sequence[Path], pattern: str, *, option: str = "--group") -> list[tuple[int, int]]:
    """Return links between pictures in whose names the first group of a pattern matches the same text.

    The pattern is searched in the file's name; one that holds a `/` in its whole path.

    Raises:
        UsageError: the pattern is none, or has no group.
        DataError: it is not in the name of a picture; the first are listed.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{option}: expected a regular expression, got {excerpt(pattern)}; {error}") from error
    if not compiled.groups:
        raise UsageError(
            f"{option}: expected a group in the pattern, got {excerpt(pattern)}; put what names the lot into "
            "parentheses, such as '(board[0-9]+)_'"
        )
    found = [compiled.search(path.as_posix() if "/" in pattern else path.name) for path in paths]
    keys = [None if match is None else match.group(1) for match in found]
    raise_problems(
        [
            f"{shown(path)}: expected a name in which {option} {excerpt(pattern)} matches a group, got none"
            for path, key in zip(paths, keys, strict=True)
            if key is None
        ],
        hint=f"{option}: one that matches every name, such as '^([^_]+)'",
    )
    return _linked(enumerate(keys))


def near_duplicates(paths: Sequence[Path], distance: int) -> list[tuple[int, int]]:
    """Return links between pictures whose perceptual hashes (64 bits, of low frequencies) differ by few bits.

    Args:
        paths: the pictures.
        distance: bits that may differ.

    Raises:
        UsageError: `distance` is out of range, or ImageHash is not installed.
        DataError: a picture cannot be read.
    """
    if not 0 <= distance < HASH_BITS // 2:
        raise UsageError(f"--near-duplicates: expected 0 to {HASH_BITS // 2 - 1} bits of 64, got {distance}")
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise UsageError(
            "--near-duplicates: needs ImageHash, which is not installed; pip install 'visionlora[data]'"
        ) from error

    def signs(path: Path) -> NDArray[np.float32]:
        picture = Image.fromarray(read_image(path)[..., ::-1])
        return np.where(imagehash.phash(picture).hash.ravel(), 1, -1).astype(np.float32)

    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = np.stack(list(tracked(pool.map(signs, paths), "hash", of=len(paths), unit="image")))
    links = []
    for start in range(0, len(hashes), _BLOCK):
        apart = (HASH_BITS - hashes[start : start + _BLOCK] @ hashes.T) / 2
        ones, others = np.nonzero(apart <= distance)
        later = ones + start < others
        links += list(zip((ones[later] + start).tolist(), others[later].tolist(), strict=True))
    return links


def bursts(paths: Sequence[Path], seconds: float) -> tuple[list[tuple[int, int]], int]:
    """Return links between pictures that one camera took soon after each other, and how many say when.

    Camera and time are what EXIF says. A picture that does not say is linked to none.

    Args:
        paths: the pictures.
        seconds: that may lie between two of them.

    Raises:
        UsageError: `seconds` is below 0.
        DataError: no picture says when it was taken, or one cannot be read.
    """
    if not seconds >= 0:
        raise UsageError(f"--burst: expected seconds from 0 up, got {seconds:g}")
    with ThreadPoolExecutor(_THREADS) as pool:
        said = list(pool.map(taken, paths))
    by_camera: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for index, one in enumerate(said):
        if one is not None:
            by_camera[one[0]].append((one[1], index))
    if not by_camera:
        raise DataError(
            f"--burst: expected pictures whose EXIF says when they were taken, got {len(paths)} that do not; "
            "group them by their names (--group) or their looks (--near-duplicates)"
        )
    links = []
    for pictures in by_camera.values():
        pictures.sort()
        links += [(one, other) for (before, one), (after, other) in pairwise(pictures) if after - before <= seconds]
    return links, sum(map(len, by_camera.values()))


def _linked(keys: Iterable[tuple[int, Hashable]]) -> list[tuple[int, int]]:
    """Return a link from each index to the first one of its key."""
    first: dict[Hashable, int] = {}
    return [(first.setdefault(key, index), index) for index, key in keys]
