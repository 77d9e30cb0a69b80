"""What objects look like on a drawing, beside boxes: outlines of masks, oriented boxes, and points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.reporting.page.svg import element, join
from visionlora.scoring import decode_mask
from visionlora.vision.detections import Detections
from visionlora.vision.rotated import corners_of

_POINT = 2.5  # radius in the drawing's pixels
_SURE = 0.25
"""Visibility above which a found keypoint is drawn, as in Ultralytics' `Annotator.kpts`."""


@dataclass(frozen=True, eq=False)
class Outline:
    """One object beside its box.

    Attributes:
        polygons: closed lines, (P, 2) each, in the drawing's pixels; they take the place of the box.
        points: (K, 2).
    """

    polygons: tuple[NDArray[np.floating], ...] = ()
    points: NDArray[np.floating] | None = None

    def drawn(self) -> Markup:
        """Return it as SVG, a dark line under the bright one."""
        path = " ".join(f"M{' '.join(f'{x:.1f},{y:.1f}' for x, y in one.tolist())}Z" for one in self.polygons)
        lines = [_lines("path", d=path)] if path else []
        return join([*lines, *(_lines("circle", cx=x, cy=y, r=_POINT) for x, y in self._points)])

    @property
    def _points(self) -> list[list[float]]:
        return [] if self.points is None else self.points.tolist()


def outlines(objects: Detections | LabelledImage, scale: float) -> list[Outline]:
    """Return what is drawn of each object beside its box: nothing for boxes.

    Args:
        objects: detections, or what is labelled in an image.
        scale: the drawing's pixels per pixel of the image.
    """
    count = len(objects.class_ids)
    if objects.obb is not None:
        return [Outline((corners * scale,)) for corners in corners_of(objects.obb)]
    if objects.keypoints is not None:
        least = 0 if isinstance(objects, LabelledImage) else _SURE
        return [Outline(points=one[one[:, 2] > least, :2] * scale) for one in objects.keypoints]
    if isinstance(objects, LabelledImage):
        if objects.segments is None:
            return [Outline()] * count
        return [Outline(tuple(line * scale for line in _lines_of(one, objects.size_wh))) for one in objects.segments]
    if objects.masks is None:
        return [Outline()] * count
    shapes = []
    for index in range(count):
        (left, top, _, _), inside = objects.masks.crop(index)
        shapes.append(Outline(tuple((line + np.array((left, top))) * scale for line in contours(inside))))
    return shapes


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.floating]]:
    """Return the lines (P, 2) around the parts of a mask (H, W) and around their holes, in its pixels."""
    if not mask.size:
        return []
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    return [line.reshape(-1, 2) + 0.5 for line in found]  # through the centres of pixels


def _lines_of(segment: Any, size_wh: tuple[int, int]) -> Sequence[NDArray[np.floating]]:
    return contours(decode_mask(segment, size_wh)) if isinstance(segment, dict) else segment


def _lines(name: str, **attributes: object) -> Markup:
    shape = {**attributes, "fill": "none", "vector_effect": "non-scaling-stroke"}
    return element(name, class_="under", **shape) + element(name, class_="line", stroke_width=2.2, **shape)
