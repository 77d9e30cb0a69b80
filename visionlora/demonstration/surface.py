"""Generated photographs of metal sheets with surface defects: the demonstration's niche data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.demonstration.drawing import (
    Field,
    Picture,
    Points,
    as_uint8,
    grain,
    light,
    rasterise,
    ribbon,
    smooth_noise,
    tight_box,
    turned,
    wobbly_circle,
)

SURFACE_NAMES = ("scratch", "pit", "inclusion", "patch", "crack", "stain")

_ATTEMPTS = 8
_LARGEST_OVERLAP = 0.2  # of the smaller of two boxes


@dataclass(frozen=True)
class Sheet:
    """The bare metal that a defect lies on: what a defect needs to know of it."""

    size: int
    grain_angle: float
    light_angle: float


class Defect(NamedTuple):
    """What one defect does to the sheet.

    Attributes:
        gain: (S, S), 0 where nothing changes; brightness is multiplied by 1 + gain.
        tint: (S, S, 3) BGR, 0 where nothing changes; each channel is multiplied by 1 + tint. None: grey.
        mask: (S, S) bool, the pixels that belong to the defect.
    """

    gain: Field
    tint: NDArray[Any] | None
    mask: NDArray[np.bool_]


class SurfaceScene(NamedTuple):
    """A sheet before and after its defects, (S, S, 3) in [0, 255] before light and sensor, and the defects' masks."""

    clean: NDArray[Any]
    damaged: NDArray[Any]
    masks: list[NDArray[np.bool_]]
    class_ids: list[int]


def draw_surface(rng: np.random.Generator, size: int) -> Picture:
    """Draw one picture of a metal sheet with no, one or several defects of SURFACE_NAMES.

    Args:
        rng: the only source of randomness; equal generators give equal pictures.
        size: side of the picture in pixels, at least 96.

    Example:
        >>> picture = draw_surface(np.random.default_rng(1), 160)
        >>> picture.image_bgr.shape
        (160, 160, 3)
    """
    scene = compose_surface(rng, size)
    image: NDArray[Any] = scene.damaged * light(rng, size, strength=1.0)[..., None]
    softness = rng.uniform(0.2, 0.8)
    image = cv2.GaussianBlur(image, (0, 0), softness)
    noise = rng.normal(0, rng.uniform(1.0, 3.5), (size, size, 1)) + rng.normal(0, 0.7, (size, size, 3))
    boxes = [tight_box(mask) for mask in scene.masks]
    return Picture(
        as_uint8(image + noise),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scene.class_ids, np.int64),
    )


def compose_surface(rng: np.random.Generator, size: int) -> SurfaceScene:
    """Draw a sheet and its defects, without light and sensor."""
    direction = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.04)
    sheet = Sheet(
        size=size,
        grain_angle=direction if rng.random() < 0.85 else rng.uniform(0, np.pi),
        light_angle=rng.uniform(0, 2 * np.pi),
    )
    clean = _bare_metal(rng, sheet)
    damaged = clean.copy()
    masks: list[NDArray[np.bool_]] = []
    class_ids: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    for class_id in _choose_classes(rng):
        for _ in range(_ATTEMPTS):
            defect = _DEFECTS[class_id](rng, sheet)
            box = tight_box(defect.mask)
            if box is None or not _fits(box, boxes, size):
                continue
            damaged *= 1 + defect.gain[..., None]
            if defect.tint is not None:
                damaged *= 1 + defect.tint
            boxes.append(box)
            masks.append(defect.mask)
            class_ids.append(class_id)
            break
    return SurfaceScene(clean, np.clip(damaged, 0, 255), masks, class_ids)


def _choose_classes(rng: np.random.Generator) -> list[int]:
    """Return the classes to draw: none in one picture of ten; pits come in groups."""
    count = int(rng.choice([0, 1, 2, 3, 4], p=[0.1, 0.35, 0.3, 0.17, 0.08]))
    chosen: list[int] = []
    for class_id in rng.integers(0, len(SURFACE_NAMES), count):
        repeats = int(rng.integers(1, 4)) if SURFACE_NAMES[class_id] == "pit" else 1
        chosen += [int(class_id)] * repeats
    return sorted(chosen, key=_DRAW_ORDER.index)


def _fits(box: tuple[int, int, int, int], others: list[tuple[int, int, int, int]], size: int) -> bool:
    """Whether a box is large enough to be seen and leaves the others free."""
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < 0.04 * size or min(width, height) < 2:
        return False
    for other in others:
        shared_width = min(box[2], other[2]) - max(box[0], other[0])
        shared_height = min(box[3], other[3]) - max(box[1], other[1])
        smaller = min(width * height, (other[2] - other[0]) * (other[3] - other[1]))
        if shared_width > 0 and shared_height > 0 and shared_width * shared_height > _LARGEST_OVERLAP * smaller:
            return False
    return True


def _bare_metal(rng: np.random.Generator, sheet: Sheet) -> NDArray[Any]:
    """Return a sheet (S, S, 3) without defects: brushed, rolled or blasted."""
    size, angle = sheet.size, sheet.grain_angle
    finish = rng.choice(3, p=[0.4, 0.4, 0.2])
    fine, coarse, cloudy, speckle = (
        rng.uniform((0.04, 0.02, 0.00, 0.01), (0.10, 0.05, 0.02, 0.03)),  # brushed
        rng.uniform((0.01, 0.02, 0.02, 0.02), (0.04, 0.05, 0.06, 0.05)),  # rolled
        rng.uniform((0.00, 0.00, 0.02, 0.05), (0.01, 0.01, 0.05, 0.10)),  # blasted
    )[finish]
    texture = fine * grain(rng, size, angle=angle, length=rng.uniform(0.2, 0.6) * size, width=rng.uniform(1.0, 1.8))
    texture += coarse * grain(rng, size, angle=angle, length=rng.uniform(0.6, 2.0) * size, width=rng.uniform(3, 9))
    texture += cloudy * smooth_noise(rng, size, rng.uniform(0.08, 0.3) * size)
    texture += speckle * smooth_noise(rng, size, rng.uniform(1.2, 2.5))
    grey = rng.uniform(75, 175) * (1 + texture)
    tone = 1 + rng.normal(0, 0.012, 3) * (rng.random() < 0.7)
    return (grey[..., None] * tone).astype(np.float32)


def _scratch(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """A long thin line, straight or slightly bowed, bright (bare metal) or sometimes dark, of one to three strands."""
    size = sheet.size
    length = rng.uniform(0.2, 1.0) * size
    t = np.linspace(-0.5, 0.5, 32)
    bow = rng.normal(0, 0.06) * length * (4 * t**2) + np.cumsum(rng.normal(0, 0.15, 32))
    angle, centre = rng.uniform(0, np.pi), _centre(rng, size, 0.2)
    taper = np.clip(np.sin(np.pi * (t + 0.5)) ** 0.6, 0.3, 1)
    strands = []
    for strand in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        keep = slice(0, 32) if strand == 0 else slice(int(rng.integers(0, 12)), int(rng.integers(20, 32)))
        line = np.stack([t * length, bow + strand * rng.uniform(2.0, 4.5)], axis=1)[keep]
        strands.append([ribbon(turned(line, angle, centre), rng.uniform(1.0, 2.2) * taper[keep] * size / 160)])
    coverage = rasterise(strands, size)
    strength = rng.uniform(0.2, 0.8) if rng.random() < 0.75 else -rng.uniform(0.22, 0.5)
    uneven = np.clip(0.8 + 0.2 * smooth_noise(rng, size, 0.08 * size), 0.5, 1.1)
    gain = strength * uneven * coverage - 0.25 * abs(strength) * _shifted(coverage, sheet.light_angle, 1.5)
    return Defect(gain.astype(np.float32), None, coverage > 0.3)


def _pit(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """A small crater: dark, with a lit rim away from the light."""
    size = sheet.size
    radius = np.exp(rng.uniform(np.log(0.022), np.log(0.075))) * size
    stretch = np.array([1.0, rng.uniform(0.65, 1.0)])
    contour = turned(wobbly_circle(rng, 0.25) * stretch * radius, rng.uniform(0, np.pi), _centre(rng, size, 0.05))
    bowl = cv2.GaussianBlur(rasterise([[contour]], size), (0, 0), 0.6 + 0.12 * radius)
    rim = _shifted(bowl, sheet.light_angle, 0.3 * radius) - _shifted(bowl, sheet.light_angle + np.pi, 0.3 * radius)
    gain = -rng.uniform(0.15, 0.55) * bowl + rng.uniform(0.15, 0.5) * rim
    return Defect(np.maximum(gain, -0.85), None, bowl > 0.3)


def _inclusion(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """Dark slag, drawn out along the grain: ragged stringers in a line."""
    size = sheet.size
    length, width = rng.uniform(0.12, 0.55) * size, rng.uniform(0.016, 0.05) * size
    centre, pieces = _centre(rng, size, 0.08), []
    cuts = np.sort(rng.uniform(-0.5, 0.5, int(rng.integers(0, 4))))
    for start, end in zip([-0.5, *cuts], [*(cuts - 0.02), 0.5], strict=True):
        if (end - start) * length < 3:
            continue
        lens = wobbly_circle(rng, 0.3) * [(end - start) * length / 2, width * rng.uniform(0.35, 0.6)]
        lens += [(start + end) / 2 * length, rng.normal(0, 0.25) * width]
        pieces.append([turned(lens, sheet.grain_angle, centre)])
    coverage = _ragged(rng, rasterise(pieces, size), cell=2.5, amount=0.35)
    uneven = np.clip(0.85 + 0.2 * smooth_noise(rng, size, 4), 0.5, 1.2)
    return Defect(-rng.uniform(0.22, 0.65) * uneven * coverage, None, coverage > 0.4)


def _patch(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """A large area with a ragged edge and a mottled surface of its own, darker or lighter: scale that came off."""
    size = sheet.size
    radius = np.exp(rng.uniform(np.log(0.08), np.log(0.26))) * size
    centre, lobes = _centre(rng, size, 0.1), []
    for _ in range(int(rng.integers(1, 4))):
        lobe = wobbly_circle(rng, 0.35) * radius * [rng.uniform(0.7, 1.3), rng.uniform(0.4, 0.9)]
        offset = rng.normal(0, 0.6 * radius, 2)
        lobes.append([turned(lobe, sheet.grain_angle, (centre[0] + offset[0], centre[1] + offset[1]))])
    coverage = _ragged(rng, rasterise(lobes, size), cell=0.05 * size, amount=0.3)
    coverage = _ragged(rng, coverage, cell=2.0, amount=0.25)
    strength = -rng.uniform(0.14, 0.45) if rng.random() < 0.65 else rng.uniform(0.14, 0.4)
    mottle = 0.10 * smooth_noise(rng, size, 3) + 0.06 * smooth_noise(rng, size, 10)
    return Defect((coverage * (strength + mottle)).astype(np.float32), None, coverage > 0.4)


def _crack(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """A dark jagged line that forks and narrows to its ends."""
    size = sheet.size
    width = rng.uniform(1.0, 2.6) * size / 160
    trunk = _jagged_path(rng, _centre(rng, size, 0.1), rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.8) * size)
    branches = [(trunk, width)]
    for _ in range(int(rng.integers(0, 4))):
        fork = int(rng.integers(1, len(trunk) - 1))
        ahead = trunk[fork + 1] - trunk[fork]
        direction = np.arctan2(ahead[1], ahead[0]) + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        branch = _jagged_path(rng, tuple(trunk[fork]), direction, rng.uniform(0.08, 0.3) * size)
        branches.append((branch, 0.7 * width))
    pieces = [
        [ribbon(path, wide * np.linspace(1, 0.35, len(path)) * rng.uniform(0.6, 1.4, len(path)))]
        for path, wide in branches
    ]
    coverage = rasterise(pieces, size)
    lip = np.maximum(_shifted(coverage, sheet.light_angle, 1.5) - coverage, 0)
    gain = -rng.uniform(0.3, 0.75) * coverage + rng.uniform(0.0, 0.25) * lip
    return Defect(gain, None, coverage > 0.3)


def _stain(rng: np.random.Generator, sheet: Sheet) -> Defect:
    """A dried drop or smear: the grain shows through, the edge is soft and darker than the middle, often coloured."""
    size = sheet.size
    radius = np.exp(rng.uniform(np.log(0.06), np.log(0.22))) * size
    centre, smear, drops = _centre(rng, size, 0.05), rng.uniform(0, np.pi), []
    for _ in range(int(rng.integers(1, 4))):
        offset = rng.normal(0, 0.7 * radius, 2)
        drop = wobbly_circle(rng, 0.3) * radius * [rng.uniform(0.5, 1.2), rng.uniform(0.4, 0.8)]
        drops.append([turned(drop, smear, (centre[0] + offset[0], centre[1] + offset[1]))])
    soft = cv2.GaussianBlur(rasterise(drops, size), (0, 0), 1.0 + rng.uniform(0.05, 0.16) * radius)
    edge = 4 * soft * (1 - soft)
    inside, border = rng.uniform(0.08, 0.28), rng.uniform(0.06, 0.22)
    gain = -(inside * soft + border * edge) * np.clip(1 + 0.15 * smooth_noise(rng, size, 0.1 * size), 0.5, 1.5)
    colour = np.array([[-0.16, -0.04, 0.05], [0.06, 0.0, -0.05], [0.0, 0.0, 0.0]])[rng.choice(3, p=[0.45, 0.2, 0.35])]
    tint = (soft[..., None] * colour * rng.uniform(0.4, 1.2)).astype(np.float32)
    return Defect(gain.astype(np.float32), tint, soft > 0.3)


_DEFECTS: tuple[Callable[[np.random.Generator, Sheet], Defect], ...] = (
    _scratch,
    _pit,
    _inclusion,
    _patch,
    _crack,
    _stain,
)
_DRAW_ORDER = [SURFACE_NAMES.index(name) for name in ("patch", "stain", "inclusion", "crack", "pit", "scratch")]


def _centre(rng: np.random.Generator, size: int, margin: float) -> tuple[float, float]:
    x, y = rng.uniform(margin * size, (1 - margin) * size, 2)
    return float(x), float(y)


def _shifted(field: Field, angle: float, distance: float) -> Field:
    """Return `field` (S, S) moved by `distance` pixels in the direction `angle`."""
    move = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]])
    return cv2.warpAffine(field, move, field.shape[::-1], flags=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def _ragged(rng: np.random.Generator, coverage: Field, *, cell: float, amount: float) -> Field:
    """Return `coverage` (S, S) with an edge that noise of about `cell` pixels has gnawed at."""
    soft = cv2.GaussianBlur(coverage, (0, 0), max(0.5 * cell, 0.8))
    gnawed = soft + amount * np.where(soft > 0.02, smooth_noise(rng, len(coverage), cell), 0) * 4 * soft * (1 - soft)
    return np.clip((gnawed - 0.3) / 0.4, 0, 1).astype(np.float32)


def _jagged_path(rng: np.random.Generator, start: tuple[float, float], direction: float, length: float) -> Points:
    """Return a random walk (n, 2) in pixels that keeps its general direction."""
    steps = max(5, int(length / 3.5))
    turns = direction + rng.normal(0, 0.7, steps) + np.cumsum(rng.normal(0, 0.12, steps))
    stride = length / steps * rng.uniform(0.6, 1.4, steps)
    moves = stride[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.concatenate([[start], np.asarray(start) + np.cumsum(moves, axis=0)])
