"""Rotated boxes: their corners, how much they overlap, and which of them are one object; numpy only.

A rotated box is centre x, centre y, width, height and the angle in radians by which it is turned from the x axis to the
y axis, which points down.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_EPSILON = 1e-7  # as in Ultralytics' `batch_probiou`
_BELOW_RIGHT = float(np.nextafter(np.float32(np.pi / 2), np.float32(0)))  # in float32, pi / 2 is rounded up
_BLOCK = 256
"""Boxes that are compared with those before at once."""


def regularized(obb: ArrayLike) -> NDArray[np.float32]:
    """Return the same boxes (N, 5) with angles in [0, pi / 2), as Ultralytics' `regularize_rboxes` does.

    Example:
        >>> regularized([[5, 5, 4, 2, -np.pi / 2]]).tolist()
        [[5.0, 5.0, 2.0, 4.0, 0.0]]
    """
    boxes = np.array(obb, dtype=np.float64).reshape(-1, 5)
    quarters, angles = np.divmod(boxes[:, 4], np.pi / 2)
    turned = quarters % 2 == 1
    boxes[turned, 2:4] = boxes[turned, 3:1:-1]
    boxes[:, 4] = np.minimum(angles, _BELOW_RIGHT)
    return boxes.astype(np.float32)


def corners_of(obb: ArrayLike) -> NDArray[np.float32]:
    """Return the corners (N, 4, 2) of rotated boxes (N, 5), x and y, in the order of Ultralytics' `xywhr2xyxyxyxy`."""
    boxes = np.asarray(obb, dtype=np.float32).reshape(-1, 5)
    cos, sin = np.cos(boxes[:, 4:]), np.sin(boxes[:, 4:])
    along = np.concatenate([cos, sin], axis=1) * boxes[:, 2:3] / 2
    across = np.concatenate([-sin, cos], axis=1) * boxes[:, 3:4] / 2
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return np.stack([boxes[:, :2] + a * along + b * across for a, b in signs], axis=1)


def upright(obb: ArrayLike) -> NDArray[np.float32]:
    """Return the boxes (N, 4) xyxy around rotated boxes (N, 5)."""
    corners = corners_of(obb)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def probiou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return how much rotated boxes overlap those at the same place: 1 less the Hellinger distance of Gaussians.

    The Gaussians have the centres and the second moments of the boxes (arXiv 2106.06072, eq. 6 to 8), computed as in
    Ultralytics' `batch_probiou`.

    Args:
        a: (..., 5) boxes.
        b: (..., 5) boxes; the shapes are broadcast.

    Returns:
        (...) float32 in [0, 1].
    """
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return _probiou(a[..., :2] - b[..., :2], _moments(a), _moments(b))


def rotated_nms(
    obb: ArrayLike,
    scores: ArrayLike,
    class_ids: ArrayLike,
    *,
    iou_threshold: float,
    max_detections: int,
) -> NDArray[np.int64]:
    """Return which rotated boxes stay when each removes the worse ones of its class that overlap it too much.

    As Ultralytics does for such boxes: by `probiou`, and a box that is removed itself removes others too (Fast NMS,
    arXiv 1904.02689, section 3.3). Equal scores keep their order. It stops as soon as `max_detections` are kept.

    Args:
        obb: (N, 5).
        scores: (N,).
        class_ids: (N,).
        iou_threshold: a box is removed when its `probiou` with a better one is greater than this.
        max_detections: how many indices to return at most.

    Returns:
        (K,) int64 indices into the input, best first.

    Example:
        >>> boxes = [[9, 9, 8, 4, 0.1], [9, 9, 8, 4, 0], [9, 9, 8, 4, 0]]
        >>> rotated_nms(boxes, [0.5, 0.9, 0.8], [0, 0, 1], iou_threshold=0.5, max_detections=300).tolist()
        [1, 2]
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    boxes = np.asarray(obb, dtype=np.float32).reshape(-1, 5)[order]
    classes = np.asarray(class_ids)[order]
    moments = _moments(boxes)
    # Bhattacharyya distances are at least a quarter of the squared distance by the larger variances: pairs that are
    # farther apart than that of the threshold need no look. The pixel more is for boxes of almost no area.
    reach = 4 * -np.log(np.clip(1 - (1 - np.float64(iou_threshold)) ** 2, _EPSILON, 1)) + _EPSILON
    spread = np.square(boxes[:, 2:4]).max(axis=1, initial=0) / 12 + 1
    kept: list[NDArray[np.int64]] = []
    found = 0
    for start in range(0, len(order), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(order)))
        count = block.stop
        apart = [boxes[block, None, axis] - boxes[None, :count, axis] for axis in (0, 1)]
        near = apart[0] ** 2 + apart[1] ** 2 <= 1.01 * reach * (spread[block, None] + spread[None, :count])
        near &= (classes[block, None] == classes[None, :count]) & np.tri(block.stop - start, count, start - 1, bool)
        ours, others = np.nonzero(near)
        distance = boxes[start + ours, :2] - boxes[others, :2]
        overlaps = _probiou(distance, moments[start + ours], moments[others]) > iou_threshold
        alive = np.ones(block.stop - start, dtype=np.bool_)
        alive[ours[overlaps]] = False
        kept.append(start + np.flatnonzero(alive))
        found += len(kept[-1])
        if found >= max_detections:
            break
    return order[np.concatenate(kept)[:max_detections]] if kept else order


def _moments(obb: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., 5) boxes -> (..., 3) variance of x, of y, and their covariance."""
    along, across = np.square(obb[..., 2]) / 12, np.square(obb[..., 3]) / 12
    cos, sin = np.cos(obb[..., 4]), np.sin(obb[..., 4])
    x = along * cos**2 + across * sin**2
    y = along * sin**2 + across * cos**2
    return np.stack([x, y, (along - across) * cos * sin], axis=-1)


def _probiou(apart: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of Gaussians whose centres are (..., 2) apart and whose moments are (..., 3) each."""
    x, y, both = np.moveaxis(a + b, -1, 0)
    dx, dy = apart[..., 0], apart[..., 1]
    determinant = x * y - both**2
    distance = (x * dy**2 + y * dx**2 - 2 * both * dx * dy) / (determinant + _EPSILON) / 4
    own = np.maximum(a[..., 0] * a[..., 1] - a[..., 2] ** 2, 0) * np.maximum(b[..., 0] * b[..., 1] - b[..., 2] ** 2, 0)
    distance += np.log(determinant / (4 * np.sqrt(own) + _EPSILON) + _EPSILON) / 2
    return 1 - np.sqrt(1 - np.exp(-np.clip(distance, _EPSILON, 100)) + _EPSILON)
