"""Pose: a box, a class and keypoints for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks.rows import Rows, box_overlap, check_count
from visionlora.vision.detections import Detections
from visionlora.vision.drawing import draw_boxes
from visionlora.vision.preprocess import Placement

_FALLOFF = 0.1  # between COCO's of eyes, 0.05, and of hips, 0.2


@dataclass(frozen=True)
class Pose(Rows):
    """Keypoints.

    The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and for each keypoint x,
    y and, with `dims` 3, how surely it is visible, in [0, 1].

    Raises:
        UsageError: `keypoints` is no number above 0, or `dims` is neither 2 nor 3.
    """

    name: ClassVar[str] = "pose"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_boxes)
    keypoints: int = 17
    dims: int = 3

    def __post_init__(self) -> None:
        check_count("keypoints", self.keypoints)
        if self.dims not in (2, 3):
            raise UsageError(f"dims: expected 2 (x, y) or 3 (x, y, visible), got {self.dims!r:.40}")

    # -- predictions

    @property
    def extras(self) -> int:
        """How many rows lie behind the scores."""
        return self.keypoints * self.dims

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the IoU of each anchor's box times the similarity of its keypoints, each by a tenth of the box's side.

        It is COCO's object keypoint similarity with one falloff for all keypoints.
        """
        points = [
            outputs[0][-self.extras :].reshape(self.keypoints, self.dims, -1)[:, :2].astype(np.float64)
            for outputs in (a, b)
        ]
        squared = np.square(points[0] - points[1]).sum(axis=1)  # (keypoints, anchors)
        area = np.maximum(a[0][2] * a[0][3], 1).astype(np.float64)
        similar = np.exp(-squared / (2 * area * _FALLOFF**2)).mean(axis=0)
        return box_overlap(a[0][:4], b[0][:4]) * similar

    def _found(
        self,
        outputs: Sequence[NDArray[np.float32]],
        anchors: NDArray[np.intp],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        placement: Placement | None,
    ) -> Detections:
        rows = outputs[0][-self.extras :, anchors].T.reshape(-1, self.keypoints, self.dims)
        keypoints = np.ones((len(rows), self.keypoints, 3), dtype=np.float32)
        keypoints[..., : self.dims] = rows
        if placement is not None:
            boxes = placement.to_original(boxes)
            keypoints[..., :2] = placement.points_to_original(keypoints[..., :2])
        return Detections(boxes, scores, class_ids, painter=self.draw, keypoints=keypoints)

    # -- ground truth
