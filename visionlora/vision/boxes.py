"""How much boxes overlap, and which of them are one object: numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 256
"""Boxes that are compared with each other at once."""


def iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float32]:
    """Return how much each box of `a` overlaps each box of `b`: intersection over union.

    Args:
        a_xyxy: (N, 4) boxes.
        b_xyxy: (M, 4) boxes in the same unit.

    Returns:
        (N, M) float32 in [0, 1]; 0 where both boxes are empty.

    Example:
        >>> iou_matrix([[0, 0, 2, 2]], [[0, 0, 2, 1], [5, 5, 6, 6]]).tolist()
        [[0.5, 0.0]]
    """
    a = np.asarray(a_xyxy, dtype=np.float32).reshape(-1, 1, 4)
    b = np.asarray(b_xyxy, dtype=np.float32).reshape(1, -1, 4)
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)  # (N, M)
    union = _area(a) + _area(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def nms(
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    class_ids: ArrayLike,
    *,
    iou_threshold: float,
    max_detections: int,
) -> NDArray[np.int64]:
    """Return which boxes stay when each box removes the worse ones of its class that overlap it too much.

    Greedy, best score first; equal scores keep their order. It stops as soon as `max_detections` are kept.

    Args:
        boxes_xyxy: (N, 4).
        scores: (N,).
        class_ids: (N,).
        iou_threshold: a box is removed when its IoU with a kept one is greater than this.
        max_detections: how many indices to return at most.

    Returns:
        (K,) int64 indices into the input, best first.

    Example:
        >>> boxes = [[0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 8]]
        >>> nms(boxes, [0.5, 0.9, 0.8], [0, 0, 1], iou_threshold=0.5, max_detections=300).tolist()
        [1, 2]
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)[order]
    classes = np.asarray(class_ids)[order]
    kept: list[int] = []  # positions in `order`
    # A block is compared with what is kept so far, then with itself: most boxes are never looked at.
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if kept:
            block = block[~_overlaps(boxes, classes, block, np.asarray(kept), iou_threshold).any(axis=1)]
        removes = _overlaps(boxes, classes, block, block, iou_threshold)  # (B, B)
        alive = np.ones(len(block), dtype=bool)
        for position in range(len(block)):
            if alive[position]:
                kept.append(int(block[position]))
                alive &= ~removes[position]
                if len(kept) >= max_detections:
                    return order[kept]
    return order[np.asarray(kept, dtype=np.int64)]


def _area(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def _overlaps(
    boxes_xyxy: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """(rows, columns): whether two boxes of one class overlap more than the threshold."""
    same_class = class_ids[rows, None] == class_ids[None, columns]
    return same_class & (iou_matrix(boxes_xyxy[rows], boxes_xyxy[columns]) > iou_threshold)
