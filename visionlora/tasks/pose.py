"""Pose: a box, a class and keypoints for each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.tasks.label_lines import BOX_COLUMNS, box_of, check_fraction
from visionlora.tasks.rows import Rows, box_overlap, check_count
from visionlora.tasks.task import box_fields
from visionlora.vision.detections import Detections
from visionlora.vision.painters import SEEN, draw_keypoints
from visionlora.vision.preprocess import Placement

_BOX = BOX_COLUMNS - 1
_DIMS = (2, 3)
_VISIBILITIES = (0, 1, 2)
_VISIBLE = 2
OBJECT_IN_BOX = 0.53
"""How much of its box a person covers; for data sets that label no area, as in Ultralytics' `PoseValidator`, which has
it of jin-s13/xtcocoapi, cocoeval.py."""

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
    iou_type: ClassVar[str] = "keypoints"
    noun: ClassVar[str] = "keypoints"
    similarity: ClassVar[str] = "OKS"
    truth: ClassVar[str] = "keypoints"
    binned: ClassVar[int] = 4  # the distances of the sides from the anchor
    draw = staticmethod(draw_keypoints)
    keypoints: int = 17
    dims: int = 3

    def __post_init__(self) -> None:
        check_count("keypoints", self.keypoints)
        if self.dims not in _DIMS:
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

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        """Return box and keypoints of each object as fractions of the image; visibility is 2, or 0 below 0.5."""
        assert found.keypoints is not None
        points = found.keypoints.astype(np.float64) / (*size_wh, 1)
        points[..., 2] = np.where(points[..., 2] < SEEN, 0, _VISIBLE)
        flat = points[..., : self.dims].reshape(len(found), self.extras).tolist()
        return [box + row for box, row in zip(super().label_rows(found, size_wh), flat, strict=True)]

    # -- ground truth

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return `keypoints`, (N, 3 K), and how many are labelled or found, beside `bbox` and `area` of the box."""
        points = objects.keypoints.astype(np.float64)
        flat = points.reshape(len(points), points.shape[1] * points.shape[2])
        return {**box_fields(objects), "keypoints": flat, "num_keypoints": (points[..., 2] > 0).sum(axis=1)}

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line that is no box with keypoints."""
        expected = BOX_COLUMNS + self.keypoints * self.dims
        if columns != expected:
            raise ValueError(
                f"expected {expected} columns (class, x, y, width, height, and {self.dims} for each of "
                f"{self.keypoints} keypoints), got {columns}; data.yaml says kpt_shape: [{self.keypoints}, {self.dims}]"
            )

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the clipped (4,) xyxy of x, y, width, height; the keypoints are checked."""
        points = np.reshape(values[_BOX:], (self.keypoints, self.dims)).tolist()
        for number, (x, y, *visibility) in enumerate(points, start=1):
            check_fraction(f"x of keypoint {number}", x)
            check_fraction(f"y of keypoint {number}", y)
            if visibility and visibility[0] not in _VISIBILITIES:
                raise ValueError(
                    f"expected visibility 0 (not labelled), 1 (hidden) or 2 (visible) of keypoint {number}, got "
                    f"{visibility[0]:g}; labels hold no confidence"
                )
        return box_of(values[:_BOX])

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        """Return `keypoints`, (N, K, 3), and the areas that objects are taken to have in their boxes.

        With `dims` 2 a keypoint is visible but where a coordinate is negative, as in Ultralytics' `verify_image_label`.
        """
        values = np.asarray(rows, dtype=np.float64).reshape(len(rows), _BOX + self.keypoints * self.dims)
        points = values[:, _BOX:].reshape(len(rows), self.keypoints, self.dims)
        visibility = points[..., 2] if self.dims == _DIMS[1] else np.where((points < 0).any(axis=-1), 0, _VISIBLE)
        keypoints = np.concatenate([points[..., :2] * size_wh, visibility[..., None]], axis=-1)
        boxes = np.array([self.label_box(row) for row in rows]).reshape(-1, _BOX) * np.array(size_wh * 2)
        sides = boxes[:, 2:] - boxes[:, :2]
        return {"keypoints": keypoints.astype(np.float32), "areas": OBJECT_IN_BOX * sides.prod(axis=1)}
