"""Pose: a box, a class and keypoints for each object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Pose:
    """Keypoints. The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and for each
    keypoint x, y and, with `dims` 3, how surely it is visible, in [0, 1].
    """

    name: ClassVar[str] = "pose"
    keypoints: int = 17
    dims: int = 3

    # -- predictions

    # -- ground truth
