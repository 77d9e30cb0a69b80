"""What objects look like on a drawing, beside boxes: outlines of masks, oriented boxes, and points."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.reporting.page.svg import element, join
from visionlora.vision.detections import Detections
from visionlora.vision.painters import SEEN, contours_of
from visionlora.vision.rotated import corners_of

_POINT = 2.5  # radius in the drawing's pixels


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
    if objects.obb is not None:
        return [Outline((corners * scale,)) for corners in corners_of(objects.obb)]
    if objects.keypoints is not None:
        return [Outline(points=one[one[:, 2] >= SEEN, :2] * scale) for one in objects.keypoints]
    if getattr(objects, "segments", None) is None and getattr(objects, "masks", None) is None:
        return [Outline()] * len(objects.class_ids)
    return [Outline(tuple(_few(line) * scale for line in shape)) for shape in contours_of(objects)]


def _few(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a line without the points that lie within half a pixel of the line through the others."""
    return np.asarray(cv2.approxPolyDP(line[:, None], 0.5, True)[:, 0], dtype=np.float32)


def _lines(name: str, **attributes: object) -> Markup:
    shape = {**attributes, "fill": "none", "vector_effect": "non-scaling-stroke"}
    return element(name, class_="under", **shape) + element(name, class_="line", stroke_width=2.2, **shape)
