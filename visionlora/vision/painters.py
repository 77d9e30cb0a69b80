"""Masks, keypoints and rotated boxes with labels on a picture; each function here is a `Painter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.vision.drawing import Colour, boxes_on_canvas, draw_labels
from visionlora.vision.masks import decode_rle
from visionlora.vision.rotated import corners_of

_FILL = 0.45
"""Share of the colour in the inside of a mask."""
_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
SEEN = 0.5
"""Keypoints that are less surely visible are not drawn, and count as not labelled."""
_FACE, _LEFT, _RIGHT, _TRUNK = (255, 190, 60), (90, 210, 70), (60, 140, 255), (230, 110, 200)
COCO_SKELETON: tuple[tuple[int, int, Colour], ...] = (
    *((0, 1, _FACE), (0, 2, _FACE), (1, 3, _FACE), (2, 4, _FACE), (3, 5, _FACE), (4, 6, _FACE)),
    *((5, 6, _TRUNK), (5, 11, _TRUNK), (6, 12, _TRUNK), (11, 12, _TRUNK)),
    *((5, 7, _LEFT), (7, 9, _LEFT), (11, 13, _LEFT), (13, 15, _LEFT)),
    *((6, 8, _RIGHT), (8, 10, _RIGHT), (12, 14, _RIGHT), (14, 16, _RIGHT)),
)
"""Lines between COCO's 17 keypoints of a person, and their colours: a side of the body has one."""


def draw_masks(
    canvas: NDArray[np.uint8],
    objects: Any,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    scale: float = 1.0,
    offset_xy: tuple[int, int] = (0, 0),
) -> None:
    """Draw the masks of objects, through which the picture shows, their outlines and labels."""
    shapes = [[_fine(points, scale, offset_xy) for points in contours] for contours in contours_of(objects)]
    pairs = list(zip(shapes, colours, strict=True))
    for shape, colour in reversed(pairs):
        _fill(canvas, shape, colour)
    for shape, colour in reversed(pairs):
        cv2.polylines(canvas, shape, True, colour, 2, cv2.LINE_AA, _SHIFT)
    draw_labels(canvas, boxes_on_canvas(canvas, objects, scale=scale, offset_xy=offset_xy), labels, colours)


def draw_keypoints(
    canvas: NDArray[np.uint8],
    objects: Any,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    scale: float = 1.0,
    offset_xy: tuple[int, int] = (0, 0),
) -> None:
    """Draw the keypoints of objects, joined to limbs where they are COCO's 17 of a person, with boxes and labels."""
    boxes = boxes_on_canvas(canvas, objects, scale=scale, offset_xy=offset_xy)
    for box, points, colour in reversed(list(zip(boxes, objects.keypoints, colours, strict=True))):
        cv2.rectangle(canvas, box[:2], box[2:], colour, 1, cv2.LINE_AA)
        places = _fine(points[:, :2], scale, offset_xy)
        seen = points[:, 2] >= SEEN
        thickness = int(np.clip((box[3] - box[1]) / 80, 1, 4))
        for start, end, limb in COCO_SKELETON if len(points) == 17 else ():
            if seen[start] and seen[end]:
                cv2.line(canvas, places[start], places[end], limb, thickness + 1, cv2.LINE_AA, _SHIFT)
        for place in places[seen]:
            radius = (thickness + 1) << _SHIFT
            cv2.circle(canvas, place, radius, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, place, radius, colour, 1, cv2.LINE_AA, _SHIFT)
    draw_labels(canvas, boxes, labels, colours)


def draw_rotated_boxes(
    canvas: NDArray[np.uint8],
    objects: Any,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    scale: float = 1.0,
    offset_xy: tuple[int, int] = (0, 0),
) -> None:
    """Draw the rotated boxes of objects and their labels."""
    shapes = [_fine(corners, scale, offset_xy) for corners in corners_of(objects.obb)]
    for shape, colour in reversed(list(zip(shapes, colours, strict=True))):
        cv2.polylines(canvas, [shape], True, colour, 2, cv2.LINE_AA, _SHIFT)
    draw_labels(canvas, boxes_on_canvas(canvas, objects, scale=scale, offset_xy=offset_xy), labels, colours)


def contours_of(objects: Any) -> list[list[NDArray[np.float32]]]:
    """Return the outlines of each object's mask, (P, 2) points x, y in pixels, holes among them.

    Args:
        objects: `Detections` with masks, or what is labelled in an image: polygons, or RLE.
    """
    if hasattr(objects, "masks"):
        return [mask_contours(*objects.masks.crop(index)) for index in range(len(objects.masks))]
    return [
        mask_contours((0, 0, 0, 0), decode_rle(segment))
        if isinstance(segment, dict)
        else [np.asarray(polygon, dtype=np.float32) for polygon in segment]
        for segment in objects.segments
    ]


def mask_contours(region: Sequence[int], inside: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """Return the outlines (P, 2) of a mask that lies at a region, through the centres of its outermost pixels."""
    if not inside.any():
        return []
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [each[:, 0].astype(np.float32) + np.array(region[:2], dtype=np.float32) + np.float32(0.5) for each in found]


def _fine(points: NDArray[np.floating], scale: float, offset_xy: tuple[int, int]) -> NDArray[np.int32]:
    """Points on the canvas in OpenCV's fractions of a pixel; its whole numbers are centres of pixels, ours corners."""
    placed = points * np.float32(scale) + offset_xy
    return np.rint((np.clip(placed, -1e5, 1e5) - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _fill(canvas: NDArray[np.uint8], shape: Sequence[NDArray[np.int32]], colour: Colour) -> None:
    """Mix a colour into the inside of some outlines."""
    if not shape:
        return
    every = np.concatenate(shape) >> _SHIFT
    left, top = np.maximum(every.min(axis=0), 0).tolist()
    right, bottom = np.minimum(every.max(axis=0) + 2, canvas.shape[1::-1]).tolist()
    if left >= right or top >= bottom:
        return
    inside = np.zeros((bottom - top, right - left), dtype=np.uint8)
    moved = [each - (np.array([left, top]) << _SHIFT).astype(np.int32) for each in shape]
    cv2.fillPoly(inside, moved, 255, cv2.LINE_8, _SHIFT)
    part = canvas[top:bottom, left:right]
    mixed = cv2.addWeighted(part, 1 - _FILL, np.full_like(part, colour), _FILL, 0)
    cv2.copyTo(mixed, inside, part)
