"""What both generated picture sets are drawn with: noise fields, rasterised outlines, masks and their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[Any]  # (S, S) float32
Points: TypeAlias = NDArray[Any]  # (n, 2) float64: x, y
Outline: TypeAlias = Sequence[Sequence[Points]]
"""Groups of closed contours, each (n, 2) in pixels. Inside a group contours cut holes (even-odd); groups are united."""

_SHIFT = 4  # cv2 draws at 2**-4 pixel


class Picture(NamedTuple):
    """One generated picture with its labels.

    Attributes:
        image_bgr: (S, S, 3) uint8.
        boxes_xyxy: (N, 4) float32, pixel edges: a single pixel at (3, 5) has the box 3, 5, 4, 6.
        class_ids: (N,) int64.
    """

    image_bgr: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]


def smooth_noise(rng: np.random.Generator, size: int, cell: float) -> Field:
    """Return cloudy noise (size, size) of mean 0 and standard deviation 1, with features of about `cell` pixels."""
    side = max(3, round(size / cell) + 2)
    field = cv2.resize(rng.standard_normal((side, side), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return _normalised(field)


def grain(rng: np.random.Generator, size: int, *, angle: float, length: float, width: float = 1.0) -> Field:
    """Return directional noise (size, size) of mean 0 and standard deviation 1, like brushed or rolled metal.

    Args:
        rng: source of randomness.
        size: side in pixels.
        angle: direction of the fibres in radians, 0 is horizontal.
        length: length of a fibre in pixels.
        width: width of a fibre in pixels.
    """
    side = int(size * 1.5)
    shape = (max(3, round(side / width)), max(3, round(side / length) + 1))
    fibres = cv2.resize(rng.standard_normal(shape, dtype=np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -np.degrees(angle), 1.0)
    turn[:, 2] -= np.float64((side - size) / 2)
    cropped = cv2.warpAffine(fibres, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return _normalised(cropped)


def light(rng: np.random.Generator, size: int, strength: float) -> Field:
    """Return uneven illumination (size, size) around 1: a slope, a soft bright spot and darker corners."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    slope = strength * rng.uniform(0, 0.35) * (np.cos(direction) * x + np.sin(direction) * y)
    spot_x, spot_y = rng.uniform(-1, 1, 2)
    reach = rng.uniform(0.5, 1.2)
    spot = strength * rng.uniform(0, 0.45) * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / reach**2)
    vignette = strength * rng.uniform(0, 0.25) * (x**2 + y**2)
    return np.clip(1 + slope + spot - vignette, 0.2, 2.0).astype(np.float32)


def rasterise(outline: Outline, size: int) -> Field:
    """Return the coverage (size, size) in [0, 1] of an outline, with soft (antialiased) edges."""
    coverage = np.zeros((size, size), np.uint8)
    for group in outline:
        contours = [np.round(points * (1 << _SHIFT)).astype(np.int32) for points in group]
        cv2.fillPoly(coverage, contours, 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return coverage.astype(np.float32) / 255


def ribbon(points: Points, widths: Points | float) -> Points:
    """Return the closed contour (2n, 2) of a line through `points` (n, 2) that is `widths` (n,) pixels wide."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1])[:, None], 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * (np.broadcast_to(widths, len(points))[:, None] / 2)
    return np.concatenate([points + across, (points - across)[::-1]])


def wobbly_circle(rng: np.random.Generator, roughness: float, *, points: int = 48) -> Points:
    """Return a closed contour (points, 2) of radius about 1 whose radius varies smoothly by about `roughness`."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones(points)
    for waves in range(2, 7):
        radius += roughness * rng.normal(0, 1 / waves) * np.cos(waves * turn + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.35, 1.8)[:, None]
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def turned(points: Points, angle: float, centre_xy: tuple[float, float]) -> Points:
    """Return `points` (n, 2) turned by `angle` radians around the origin and moved to `centre_xy`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(centre_xy)


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return x1, y1, x2, y2 of the pixels of a mask (H, W), right and lower edge exclusive; None if there are none.

    Example:
        >>> mask = np.zeros((8, 8), bool)
        >>> mask[2:5, 3] = True
        >>> tight_box(mask)
        (3, 2, 4, 5)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return `image` in [0, 255] rounded to bytes; values outside are clipped."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _normalised(field: Field) -> Field:
    field = field - field.mean()
    return (field / max(float(field.std()), 1e-6)).astype(np.float32)
