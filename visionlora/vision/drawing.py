"""Boxes with labels on a picture: one colour a class, and no label over another where there is room."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.formats.text import printable

Colour: TypeAlias = tuple[int, int, int]
"""Blue, green, red."""
_Box = tuple[int, int, int, int]  # left, top, right, bottom
INK: Colour = (40, 40, 40)
PAPER: Colour = (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE = 0.42


class Painter(Protocol):
    """What draws objects and their labels into a picture, the first object on top."""

    def __call__(
        self,
        canvas: NDArray[np.uint8],
        objects: Any,
        labels: Sequence[str],
        colours: Sequence[Colour],
        *,
        scale: float = 1.0,
        offset_xy: tuple[int, int] = (0, 0),
    ) -> None:
        """Draw into `canvas`.

        Args:
            canvas: (H, W, 3) uint8 BGR; changed.
            objects: `Detections`, or what is labelled in an image, in pixels of the image.
            labels: what to write at each object.
            colours: of each object.
            scale: pixels of the canvas per pixel of the image.
            offset_xy: where the image begins on the canvas, left and top.
        """
        ...


def draw_boxes(
    canvas: NDArray[np.uint8],
    objects: Any,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    scale: float = 1.0,
    offset_xy: tuple[int, int] = (0, 0),
) -> None:
    """Draw the boxes of objects and their labels, as a `Painter` does."""
    boxes = boxes_on_canvas(canvas, objects, scale=scale, offset_xy=offset_xy)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        cv2.rectangle(canvas, box[:2], box[2:], colour, 2, cv2.LINE_AA)
    draw_labels(canvas, boxes, labels, colours)


def boxes_on_canvas(canvas: NDArray[np.uint8], objects: Any, *, scale: float, offset_xy: tuple[int, int]) -> list[_Box]:
    """Return the boxes of objects in whole pixels of the canvas."""
    return [_on_canvas(canvas, box) for box in objects.boxes_xyxy * np.float32(scale) + offset_xy * 2]


def draw_labels(
    canvas: NDArray[np.uint8], boxes: Sequence[_Box], labels: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write a label at each box, on no other where there is room."""
    taken: list[_Box] = []
    for box, text, colour in zip(boxes, labels, colours, strict=True):
        taken.append(draw_label(canvas, text, box, colour=colour, taken=taken))


def class_colour(index: int) -> Colour:
    """Return a colour of its own for each class: hues by the golden ratio, neighbours far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * 0.618034) % 1.0, 0.75, 0.95 - 0.2 * (index % 2))
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_label(canvas: NDArray[np.uint8], text: str, box: _Box, *, colour: Colour, taken: Sequence[_Box] = ()) -> _Box:
    """Write on a filled plate at a corner of the box where no other label stands; return the plate.

    Control characters, and text that is no Unicode, which ends the process in OpenCV 5, are drawn as escapes.
    """
    text = printable(text)
    (width, height), baseline = cv2.getTextSize(text, FONT, _SCALE, 1)
    canvas_wh = canvas.shape[1], canvas.shape[0]
    plate = place_label(box, (width + 6, height + baseline + 4), canvas_wh, taken)
    cv2.rectangle(canvas, plate[:2], (plate[2] - 1, plate[3] - 1), colour, cv2.FILLED)
    light = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]  # luma of BT.601
    ink = INK if light > 140 else PAPER
    cv2.putText(canvas, text, (plate[0] + 3, plate[3] - baseline - 1), FONT, _SCALE, ink, 1, cv2.LINE_AA)
    return plate


def place_label(box: _Box, size_wh: tuple[int, int], canvas_wh: tuple[int, int], taken: Sequence[_Box]) -> _Box:
    """Return where a label of a box stands: at the corner where it hides the least of the labels before.

    Args:
        box: left, top, right, bottom in pixels.
        size_wh: of the label.
        canvas_wh: of the picture, which the label does not leave where it fits in.
        taken: the places of the labels before.
    """
    width, height = size_wh
    left, top, right, bottom = box
    corners = [
        (left - 1, top - height),
        (left - 1, bottom),
        (left + 1, top + 1),
        (left + 1, bottom - height),
        (right - width, top + 1),
        (right - width, bottom - height),
        (right - width, top - height),
        (right - width, bottom),
    ]
    plates = [_inside(canvas_wh, corner, width, height) for corner in corners]
    outside = [corner != plate[:2] for corner, plate in zip(corners, plates, strict=True)]
    # First a place that hides no label, then one that needed no shift into the picture.
    hidden = [sum(overlap(plate, other) for other in taken) for plate in plates]
    return plates[min(range(len(plates)), key=lambda i: (hidden[i], outside[i]))]


def _inside(canvas_wh: tuple[int, int], corner: tuple[int, int], width: int, height: int) -> _Box:
    """Return the plate, shifted into the picture where it would leave it."""
    left = max(min(corner[0], canvas_wh[0] - width), 0)
    top = max(min(corner[1], canvas_wh[1] - height), 0)
    return left, top, left + width, top + height


def overlap(a: _Box, b: _Box) -> int:
    """Return the pixels that two plates have in common."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _on_canvas(canvas: NDArray[np.uint8], box_xyxy: NDArray[np.floating]) -> _Box:
    """Return whole pixels such that the line stays visible."""
    height, width = canvas.shape[:2]
    left, right = (min(max(round(x), 1), width - 2) for x in box_xyxy[[0, 2]].tolist())
    top, bottom = (min(max(round(y), 1), height - 2) for y in box_xyxy[[1, 3]].tolist())
    return left, top, right, bottom
