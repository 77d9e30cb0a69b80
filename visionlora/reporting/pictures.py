"""A contact sheet: what the models see on a few images, beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.formats.text import printable
from visionlora.tasks import Task
from visionlora.vision.detections import Detections
from visionlora.vision.drawing import FONT, INK, PAPER, Colour, class_colour, draw_label
from visionlora.vision.preprocess import read_image

CELL = 320
"""Width of a column in pixels, and the longest side of a picture: images are enlarged or reduced to it."""
MIN_ROW = 96
GAP = 8
HEADER = 36

_MAT: Colour = (236, 236, 236)
_FOREIGN: Colour = (150, 150, 150)
_TITLE_SCALE = 0.6


@dataclass(frozen=True)
class Column:
    """What one model found: a title, its class names, and one Detections for each image of the sheet."""

    title: str
    names: Sequence[str]
    detections: Sequence[Detections]


def representative_images(images: Sequence[LabelledImage], count: int = 4) -> list[LabelledImage]:
    """Return the images that show the most: new classes first, then several objects; the same ones every time.

    Only the ground truth decides, so that no model is flattered by the choice.
    """
    chosen: list[LabelledImage] = []
    left = list(images)
    seen: set[int] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda image: (len(_classes(image) - seen), min(len(image.class_ids), 4)))
        fresh = _classes(best) - seen
        seen = seen | fresh if fresh else _classes(best)  # every class was shown: begin again
        chosen.append(best)
        left = [image for image in left if image is not best]
    return chosen


def before_after(
    images: Sequence[LabelledImage], names: Sequence[str], columns: Sequence[Column], *, task: Task
) -> NDArray[np.uint8]:
    """Draw a sheet with a row for each image: the ground truth to the left, then a column for each model.

    A class has the same colour everywhere; classes that the data set does not have are grey.

    Args:
        images: the rows, for example those of `representative_images`.
        names: the class names of the data set.
        columns: what each model found in these images.
        task: of the models.

    Returns:
        The sheet, (height, width, 3) uint8 BGR.

    Raises:
        DataError: an image cannot be read.
    """
    colours = {name: class_colour(index) for index, name in enumerate(names)}

    def cell(pixels: NDArray[np.uint8], objects: LabelledImage | Detections, names: Sequence[str]) -> NDArray[np.uint8]:
        found = [names[class_id] for class_id in objects.class_ids]
        scores = objects.scores if isinstance(objects, Detections) else None
        labels = found if scores is None else [f"{name} {score:.2f}" for name, score in zip(found, scores, strict=True)]
        return _cell(pixels, objects, labels, [colours.get(name, _FOREIGN) for name in found], task)

    rows = [_header(["ground truth", *(column.title for column in columns)])]
    for index, image in enumerate(images):
        pixels = read_image(image.path)
        found = [cell(pixels, column.detections[index].top(30), column.names) for column in columns]
        rows.append(_join([cell(pixels, image, names), *found], axis=1))
    return _join(rows, axis=0)


def _classes(image: LabelledImage) -> set[int]:
    return set(image.class_ids.tolist())


def _cell(
    pixels: NDArray[np.uint8],
    objects: LabelledImage | Detections,
    labels: Sequence[str],
    colours: Sequence[Colour],
    task: Task,
) -> NDArray[np.uint8]:
    """Return a picture `CELL` wide with the objects drawn on it."""
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    size_wh = max(round(width * scale), 1), max(round(height * scale), 1)
    # Enlarged before drawing, so that lines and letters stay sharp on small pictures.
    picture = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    canvas = np.full((max(size_wh[1], MIN_ROW), CELL, 3), _MAT, dtype=np.uint8)
    left, top = (CELL - size_wh[0]) // 2, (len(canvas) - size_wh[1]) // 2
    canvas[top : top + size_wh[1], left : left + size_wh[0]] = picture
    task.draw(canvas, objects, labels, colours, scale=scale, offset_xy=(left, top))
    if not labels:
        draw_label(canvas, "nothing found", (left, top, left, top), colour=_MAT)
    return canvas


def _header(titles: Sequence[str]) -> NDArray[np.uint8]:
    cells = []
    for title in map(printable, titles):
        cell = np.full((HEADER, CELL, 3), PAPER, dtype=np.uint8)
        (width, height), _ = cv2.getTextSize(title, FONT, _TITLE_SCALE, 1)
        scale = min(_TITLE_SCALE, _TITLE_SCALE * (CELL - 4) / max(width, 1))
        cv2.putText(cell, title, (2, (HEADER + height) // 2), FONT, scale, INK, 1, cv2.LINE_AA)
        cells.append(cell)
    return _join(cells, axis=1)


def _join(parts: Sequence[NDArray[np.uint8]], *, axis: int) -> NDArray[np.uint8]:
    """Lay equal-sided parts in a row (axis 1) or a column (axis 0) with gaps between and white around nothing."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, PAPER, dtype=np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)
