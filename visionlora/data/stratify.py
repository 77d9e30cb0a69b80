"""Groups of pictures to parts, so that each part shows every class as often as its share says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DIGITS = 9  # by which two wishes differ that are not equal but for rounding


def assign(groups: ArrayLike, sizes: ArrayLike, shares: Sequence[float], *, seed: int) -> NDArray[np.int64]:
    """Return the part of each group: iterative stratification of pictures with several classes, group by group.

    The class that the fewest open groups show comes first; its largest group goes to the part that lacks most pictures
    of the class, and of equals to the one that lacks most pictures (Sechidis, Tsoumakas and Vlahavas, ECML 2011,
    algorithm 1, whose examples are groups here).

    Args:
        groups: (G, L) how many pictures of each group show each class; a column for pictures that show none.
        sizes: (G,) pictures of each group.
        shares: of the pictures that each part is to have; they are scaled to 1.
        seed: which of the equally good choices.

    Returns:
        (G,) indices into `shares`.

    Example:
        >>> assign([[1, 0], [1, 0], [0, 1], [0, 1]], [1, 1, 1, 1], [0.5, 0.5], seed=0).tolist()
        [0, 1, 0, 1]
    """
    counts, pictures = np.asarray(groups, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    parts = np.asarray(shares, dtype=np.float64)
    parts = parts / parts.sum()
    lacking = parts[:, None] * counts.sum(axis=0)  # (P, L)
    lacking_pictures = parts * pictures.sum()
    chosen = np.full(len(pictures), -1, dtype=np.int64)
    draw = np.random.default_rng(seed)
    while (open_groups := chosen < 0).any():
        left = (counts[open_groups] > 0).sum(axis=0)
        label = int(np.argmin(np.where(left > 0, left, len(pictures) + 1)))
        members = draw.permutation(np.flatnonzero(open_groups & (counts[:, label] > 0)))
        for group in members[np.argsort(-counts[members, label], kind="stable")].tolist():
            wishes = (draw.random(len(parts)), lacking_pictures.round(_DIGITS), lacking[:, label].round(_DIGITS))
            part = int(np.lexsort(wishes)[-1])
            chosen[group] = part
            lacking[part] -= counts[group]
            lacking_pictures[part] -= pictures[group]
    return chosen
