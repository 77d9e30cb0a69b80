"""Generated pictures of shapes and textures: what the demonstration's toy base is pretrained on."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.demonstration.drawing import (
    Field,
    Picture,
    as_uint8,
    grain,
    light,
    rasterise,
    smooth_noise,
    tight_box,
    turned,
)
from visionlora.demonstration.outlines import OUTLINES

SHAPE_NAMES = tuple(OUTLINES)

_ATTEMPTS = 12
_MAY_BE_HOLLOW = frozenset({"square", "triangle", "star", "cross", "arrow", "crescent", "blob"})
_LEAST_VISIBLE = 0.6  # of a shape's pixels; a shape that is hidden more than this is not drawn


class ShapesScene(NamedTuple):
    """A background (S, S, 3) in [0, 255], the same with shapes, and the visible pixels of each shape."""

    background: NDArray[Any]
    painted: NDArray[Any]
    masks: list[NDArray[np.bool_]]
    class_ids: list[int]


def draw_shapes(rng: np.random.Generator, size: int) -> Picture:
    """Draw one picture with up to seven shapes of SHAPE_NAMES on a varied background.

    Args:
        rng: the only source of randomness; equal generators give equal pictures.
        size: side of the picture in pixels, at least 96.

    Example:
        >>> picture = draw_shapes(np.random.default_rng(1), 160)
        >>> picture.boxes_xyxy.shape[1]
        4
    """
    scene = compose_shapes(rng, size)
    image = scene.painted
    if rng.random() < 0.5:
        image = image * light(rng, size, strength=rng.uniform(0.3, 1.0))[..., None]
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1))
    if rng.random() < 0.6:
        image = image + rng.normal(0, rng.uniform(1, 9), (size, size, 1)) + rng.normal(0, 1, (size, size, 3))
    boxes = [tight_box(mask) for mask in scene.masks]
    return Picture(
        as_uint8(image),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scene.class_ids, np.int64),
    )


def compose_shapes(rng: np.random.Generator, size: int) -> ShapesScene:
    """Draw a background and its shapes, without light, blur and noise."""
    grey = rng.random() < 0.4
    background = _background(rng, size, grey=grey)
    painted = background.copy()
    masks: list[NDArray[np.bool_]] = []
    totals: list[int] = []  # pixels of each shape before later ones hid some
    class_ids: list[int] = []
    for class_id in rng.integers(0, len(SHAPE_NAMES), rng.choice(8, p=[0.04, 0.16, 0.2, 0.2, 0.16, 0.12, 0.08, 0.04])):
        for _ in range(_ATTEMPTS):
            coverage = _coverage(rng, SHAPE_NAMES[class_id], size)
            solid = coverage > 0.5
            left = [mask & ~solid for mask in masks]
            hides = any(visible.sum() < _LEAST_VISIBLE * total for visible, total in zip(left, totals, strict=True))
            if hides or any(_same_place(solid, mask) for mask in masks) or solid.sum() < 20:
                continue
            painted = _paint(rng, painted, coverage, grey=grey)
            masks = [*left, solid]
            totals.append(int(solid.sum()))
            class_ids.append(int(class_id))
            break
    return ShapesScene(background, np.clip(painted, 0, 255), masks, class_ids)


def _same_place(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> bool:
    """Whether two shapes share more than half of the smaller one's box."""
    a, b = tight_box(first), tight_box(second)
    if a is None or b is None:
        return False
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared > 0.5 * min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _coverage(rng: np.random.Generator, name: str, size: int) -> Field:
    """Return where a shape of class `name` lies: any place, size, turn and aspect; (S, S) in [0, 1]."""
    radius = np.exp(rng.uniform(np.log(0.05), np.log(0.36))) * size
    if name in {"stripes", "checkers", "dots", "lines", "wave"}:
        radius = max(radius, 0.09 * size)  # finer details than a pixel could not be told apart
    angle = rng.uniform(-np.pi, np.pi)
    centre = rng.uniform(0.06, 0.94, 2) * size
    squeeze = [1.0, rng.uniform(0.7, 1.0)]
    outline = [
        [turned(points * squeeze * radius, angle, (centre[0], centre[1])) for points in group]
        for group in OUTLINES[name](rng)
    ]
    coverage = rasterise(outline, size)
    if name in _MAY_BE_HOLLOW and radius > 0.1 * size and rng.random() < 0.25:
        thickness = 2 * max(1, round(0.1 * radius)) + 1
        coverage = coverage - cv2.erode(coverage, np.ones((thickness, thickness), np.uint8), borderValue=0)
    return coverage


def _paint(rng: np.random.Generator, image: NDArray[Any], coverage: Field, *, grey: bool) -> NDArray[Any]:
    """Return `image` (S, S, 3) with a shape on it: flat, shaded, textured, see-through, or just lit at its edges."""
    size = len(image)
    under = image[coverage > 0.5].mean(axis=0)
    if rng.random() < 0.1:
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(60, 140)
        soft = cv2.GaussianBlur(coverage, (0, 0), 1.0)
        slope = np.cos(angle) * cv2.Sobel(soft, cv2.CV_32F, 1, 0) + np.sin(angle) * cv2.Sobel(soft, cv2.CV_32F, 0, 1)
        return image + depth * (coverage * slope)[..., None] + rng.uniform(-25, 25) * coverage[..., None]
    colour = _contrasting(rng, under, grey=grey)
    fill: NDArray[Any] = np.broadcast_to(colour, image.shape).astype(np.float32)
    style = rng.choice(3, p=[0.45, 0.25, 0.3])
    if style == 1:
        other = _contrasting(rng, under, grey=grey)
        angle = rng.uniform(0, 2 * np.pi)
        x, y = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 2)
        mix = np.clip(0.5 + rng.uniform(0.5, 2.0) * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)[..., None]
        fill = fill * mix + other.astype(np.float32) * (1 - mix)
    elif style == 2:
        fill = fill + rng.uniform(6, 28) * _texture(rng, size)[..., None]
    opacity = rng.uniform(0.45, 0.9) if rng.random() < 0.25 else 1.0
    weight = (coverage * opacity)[..., None]
    return (image * (1 - weight) + fill * weight).astype(np.float32)


def _contrasting(rng: np.random.Generator, under: NDArray[Any], *, grey: bool) -> NDArray[Any]:
    """Return a colour (3,) that differs from `under` (3,) by 28 to 130 levels in brightness."""
    step = np.exp(rng.uniform(np.log(28), np.log(130)))
    level = float(under.mean())
    up = level + step <= 245 and (level - step < 10 or rng.random() < 0.5)
    target = np.clip(level + step if up else level - step, 5, 250)
    return np.full(3, target) if grey else np.clip(target + rng.normal(0, 40, 3), 0, 255)


def _texture(rng: np.random.Generator, size: int) -> Field:
    """Return a noise field (S, S) of deviation 1: cloudy, fine, or directional."""
    kind = rng.choice(3)
    if kind == 0:
        return smooth_noise(rng, size, np.exp(rng.uniform(np.log(3), np.log(50))))
    if kind == 1:
        return smooth_noise(rng, size, rng.uniform(1.0, 2.5))
    return grain(rng, size, angle=rng.uniform(0, np.pi), length=rng.uniform(8, 150), width=rng.uniform(1, 6))


def _background(rng: np.random.Generator, size: int, *, grey: bool) -> NDArray[Any]:
    """Return a background (S, S, 3): a colour or a gradient, one to three textures, sometimes large areas."""
    base, other = rng.uniform(30, 225, 3), rng.uniform(30, 225, 3)
    if grey:
        base, other = np.full(3, base[0]), np.full(3, other[0])
    angle, kind = rng.uniform(0, 2 * np.pi), rng.random()
    x, y = np.meshgrid(*[np.linspace(-0.5, 0.5, size, dtype=np.float32)] * 2)
    mix = np.clip(0.5 + np.cos(angle) * x + np.sin(angle) * y, 0, 1)
    if kind < 0.3:
        mix = np.zeros_like(mix)
    elif kind < 0.5:
        mix = (smooth_noise(rng, size, rng.uniform(0.2, 0.5) * size) > 0).astype(np.float32)  # areas with edges
        mix = rng.uniform(0.2, 1.0) * cv2.GaussianBlur(mix, (0, 0), rng.uniform(0.6, 4))
    image = base * (1 - mix[..., None]) + other * mix[..., None]
    for _ in range(int(rng.integers(1, 4))):
        tone = np.ones(3) if grey or rng.random() < 0.6 else rng.uniform(-1, 1, 3)
        image = image + rng.uniform(1, 16) * _texture(rng, size)[..., None] * tone
    return np.clip(image, 0, 255).astype(np.float32)
