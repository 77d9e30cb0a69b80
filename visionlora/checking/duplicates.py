"""Pictures that are there more than once, byte for byte or nearly, within a split and across splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from visionlora.checking.findings import Finding
from visionlora.checking.pictures import HASH_SIDE, Picture
from visionlora.data import SPLITS, shown

NEAR = 0.08
"""Share of the bits of two perceptual hashes that may differ in near-duplicates: a picture that was compressed again or
scaled differs in less, neighbouring frames of a still camera too."""
_ROWS = 512  # of the table of distances at a time: memory stays flat


def duplicate_findings(pictures: Sequence[Picture]) -> list[Finding]:
    """Return what is there more than once: exact and near duplicates, apart; across splits first."""
    exact: dict[bytes, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.digest:
            exact[picture.digest].append(picture)
    groups = [group for group in exact.values() if len(group) > 1]
    single = [group[0] for group in exact.values()]
    hashed = [picture for picture in single if picture.bits is not None]
    found = near_pairs(np.array([picture.bits for picture in hashed], dtype=bool).reshape(len(hashed), HASH_SIDE**2))
    totals = Counter(picture.split for picture in pictures)
    exactly = _told("duplicate", "are byte for byte", _pairs(groups), totals)
    return exactly + _told("near duplicate", "look nearly like", ((hashed[a], hashed[b]) for a, b in found), totals)


def near_pairs(bits: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows (index, higher index) whose bits differ in at most NEAR of them.

    Args:
        bits: (N, HASH_SIDE ** 2) bool.
    """
    signs = np.where(bits, 1, -1).astype(np.float32)
    least = HASH_SIDE**2 * (1 - 2 * NEAR)  # of the product: bits that agree less those that differ
    for start in range(0, len(signs), _ROWS):
        rows, columns = np.nonzero(signs[start : start + _ROWS] @ signs[start:].T >= least)
        yield from ((start + a, start + b) for a, b in zip(rows.tolist(), columns.tolist(), strict=True) if a < b)


def _pairs(groups: Sequence[Sequence[Picture]]) -> list[tuple[Picture, Picture]]:
    """Return the first picture of each group with each other one."""
    return [(group[0], other) for group in groups for other in group[1:]]


def _told(kind: str, how: str, pairs: Iterable[tuple[Picture, Picture]], totals: Mapping[str, int]) -> list[Finding]:
    """Return a finding for each pair of splits; of a picture with many twins in a split the first is named."""
    across: dict[tuple[str, str], dict[int, tuple[Picture, Picture]]] = defaultdict(dict)
    for pair in pairs:
        a, b = sorted(pair, key=lambda picture: SPLITS.index(picture.split))
        across[a.split, b.split].setdefault(id(b), (a, b))
    findings = []
    for (first, second), by_twin in sorted(across.items(), key=lambda item: item[0][0] == item[0][1]):
        found = list(by_twin.values())
        places = tuple(f"{shown(a.path)} = {shown(b.path)}" for a, b in found)
        count = f"{len(found)} of {totals[second]} pictures of {second}"
        if first == second:
            findings.append(Finding("warning", kind, f"{count} {how} another one of it: they count twice", places))
            continue
        if all(a.path == b.path for a, b in found):
            message, places = f"{count} are listed in {first} too", tuple(shown(b.path) for _, b in found)
        else:
            message = f"{count} {how} one of {first}"
        findings.append(Finding("warning", f"{kind} across splits", f"{message}: the scores flatter", places))
    return findings
