"""Columns of label files that several tasks have: boxes and points, checked, as fractions of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SLACK = 0.01
"""How far a coordinate may lie outside [0, 1]: the tolerance of Ultralytics' `verify_image_label`."""
BOX_COLUMNS = 5
"""Class, x, y, width, height."""
_POLYGON_COLUMNS = 7  # class and three points
_BOX_NAMES = ("x centre", "y centre", "width", "height")


def check_box_columns(columns: int) -> None:
    """Refuse a line that is no box.

    Raises:
        ValueError: it has other columns.
    """
    if columns != BOX_COLUMNS:
        hint = "labels hold no confidence" if columns == BOX_COLUMNS + 1 else "write one object a line"
        raise ValueError(f"expected 5 columns (class, x, y, width, height), got {columns}; {hint}")


def check_polygon_columns(columns: int, box_hint: str) -> None:
    """Refuse a line that is no polygon.

    Args:
        columns: of the line, the class first.
        box_hint: what to say of a line that is a box.

    Raises:
        ValueError: it has other columns.
    """
    if columns < _POLYGON_COLUMNS or columns % 2 == 0:
        hint = box_hint if columns == BOX_COLUMNS else "a polygon has at least 3 points of two columns each"
        raise ValueError(
            f"expected a class and an even number of at least 6 coordinates, got {columns} columns; {hint}"
        )


def box_of(values: Sequence[float]) -> NDArray[np.float64]:
    """Return x, y, width, height as a clipped (4,) xyxy.

    Raises:
        ValueError: a number cannot be meant, or nothing lies inside the image.
    """
    for name, value in zip(_BOX_NAMES, values, strict=True):
        check_fraction(name, max(value, 0) if name in _BOX_NAMES[2:] else value)  # a negative size: see below
    for name, value in zip(_BOX_NAMES[2:], values[2:], strict=True):
        if value <= 0:
            raise ValueError(f"expected {name} above 0, got {value:g}; delete the line or draw the box again")
    x, y, width, height = values
    return clip_box(np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]))


def polygon_box(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the clipped (4,) xyxy around the points x1, y1, x2, y2 ... of a polygon.

    Raises:
        ValueError: a number cannot be meant, or nothing lies inside the image.
    """
    for index, value in enumerate(values):
        check_fraction(f"{'xy'[index % 2]} of point {index // 2 + 1}", value)
    points = np.array(values, dtype=np.float32).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    for name, extent in zip(_BOX_NAMES[2:], high - low, strict=True):
        if not 0 < extent <= 1 + SLACK:
            raise ValueError(f"expected a polygon with {name} in (0, 1], got {extent:g}; draw it again")
    return clip_box(np.concatenate([low, high]).astype(np.float64))


def points_of(values: Sequence[float], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return the points x1, y1, x2, y2 ... as (P, 2) pixels of an image of this size."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 2) * size_wh


def check_fraction(name: str, value: float) -> None:
    """Refuse a label's coordinate, `x...`, `y...`, `width` or `height`, outside the image by more than the tolerance.

    Raises:
        ValueError: it is outside.
    """
    if not -SLACK <= value <= 1 + SLACK:
        axis = "height" if name.startswith(("y", "height")) else "width"
        raise ValueError(f"expected {name} in [0, 1], got {value:g}; coordinates are fractions of the image {axis}")


def clip_box(box_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the part of a (4,) box inside the image, in fractions of it.

    Raises:
        ValueError: there is none.
    """
    clipped = np.clip(box_xyxy, 0, 1)
    if not (clipped[:2] < clipped[2:]).all():
        raise ValueError(f"expected a box inside the image, got {box_xyxy.round(6).tolist()}; delete the line")
    return clipped
