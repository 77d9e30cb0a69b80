"""Oriented boxes: a rotated box and a class for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.tasks.rows import Rows
from visionlora.vision.detections import Detections
from visionlora.vision.drawing import draw_boxes
from visionlora.vision.preprocess import Placement
from visionlora.vision.rotated import probiou, regularized, rotated_nms, upright


@dataclass(frozen=True)
class OrientedBoxes(Rows):
    """Rotated boxes.

    The rows of a raw prediction are centre x, centre y, width, height, a score for each class, and the angle in
    radians. A final detection is centre x, centre y, width, height, score, class, angle.
    """

    name: ClassVar[str] = "obb"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_boxes)

    # -- predictions

    _suppress = staticmethod(rotated_nms)

    @property
    def extras(self) -> int:
        """How many rows lie behind the scores."""
        return 1

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the `probiou` of each anchor's box with the one at the same place."""
        one, other = (outputs[0][[0, 1, 2, 3, -1]].T for outputs in (a, b))
        return np.clip(probiou(one, other), 0, 1).astype(np.float64)

    def _centred(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return boxes

    def _boxes(self, first: NDArray[np.float32], anchors: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.concatenate([first[:4, anchors], first[-1:, anchors]]).T

    def _found(
        self,
        outputs: Sequence[NDArray[np.float32]],
        anchors: NDArray[np.intp],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        placement: Placement | None,
    ) -> Detections:
        obb = regularized(boxes)
        around = upright(obb)
        if placement is not None:
            around = placement.to_original(around)
            obb[:, :2] = placement.points_to_original(obb[:, :2], clip=False)
            obb[:, 2:4] /= np.float32(np.sqrt(np.prod(placement.scale_xy)))  # the two differ by rounding
        return Detections(around, scores, class_ids, painter=self.draw, obb=obb)

    # -- ground truth
