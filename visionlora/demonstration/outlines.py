"""The outlines of the shape classes, in units of the shape's radius around the origin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visionlora.demonstration.drawing import Outline, Points, ribbon, wobbly_circle

_TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE: Points = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def _circle(rng: np.random.Generator) -> Outline:
    return [[_CIRCLE * [1.0, rng.uniform(0.75, 1.0)]]]


def _square(rng: np.random.Generator) -> Outline:
    half = rng.uniform(0.7, 1.0)
    return [[np.array([[-1, -half], [1, -half], [1, half], [-1, half]]) * 0.8]]


def _triangle(rng: np.random.Generator) -> Outline:
    corners = np.radians([-90, 30, 150]) + rng.uniform(-0.25, 0.25, 3)
    return [[np.stack([np.cos(corners), np.sin(corners)], axis=1)]]


def _star(rng: np.random.Generator) -> Outline:
    spikes = int(rng.integers(4, 8))
    angle = np.arange(2 * spikes) * np.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2, rng.uniform(0.35, 0.55), 1.0)[:, None]
    return [[radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)]]


def _ring(rng: np.random.Generator) -> Outline:
    outer = _CIRCLE * [1.0, rng.uniform(0.75, 1.0)]
    return [[outer, outer * rng.uniform(0.5, 0.85)]]


def _cross(rng: np.random.Generator) -> Outline:
    a, b = rng.uniform(0.14, 0.38), rng.uniform(0.7, 1.0)
    right = [[a, a], [1, a], [1, -a], [a, -a], [a, -b], [-a, -b]]
    left = [[-a, -a], [-1, -a], [-1, a], [-a, a], [-a, b], [a, b]]
    return [[np.array(right + left)]]


def _arrow(rng: np.random.Generator) -> Outline:
    shaft, neck, wing = rng.uniform(0.08, 0.25), rng.uniform(0.0, 0.4), rng.uniform(0.45, 0.7)
    upper = np.array([[-1, shaft], [neck, shaft], [neck - rng.uniform(0, 0.2), wing], [1, 0]])
    return [[np.concatenate([upper, upper[-2::-1] * [1, -1]])]]


def _crescent(rng: np.random.Generator) -> Outline:
    reach = rng.uniform(2.0, 2.6)
    outer = np.linspace(-reach, reach, 32)
    points = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    depth = (1 - np.cos(reach)) * rng.uniform(0.55, 0.85)
    inner = np.linspace(-1, 1, 32)
    hollow = np.stack([np.cos(reach) + depth * (1 - inner**2), -inner * np.sin(reach)], axis=1)
    return [[np.concatenate([points, hollow[1:-1]])]]


def _stripes(rng: np.random.Generator) -> Outline:
    bars, half = int(rng.integers(3, 7)), rng.uniform(0.5, 0.95)
    pitch, duty = 2 / (bars - 0.5), rng.uniform(0.4, 0.6)
    lefts = -1 + pitch * np.arange(bars)
    return [[np.array([[x, -half], [x + duty * pitch, -half], [x + duty * pitch, half], [x, half]])] for x in lefts]


def _checkers(rng: np.random.Generator) -> Outline:
    columns, rows = int(rng.integers(3, 7)), int(rng.integers(3, 7))
    cell = 1.8 / max(columns, rows)
    corner = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - [columns / 2, rows / 2]
    return [[(corner + np.array([i, j])) * cell] for i in range(columns) for j in range(rows) if (i + j) % 2 == 0]


def _dots(rng: np.random.Generator) -> Outline:
    columns, rows = int(rng.integers(2, 6)), int(rng.integers(2, 6))
    pitch, radius = 1.8 / max(columns, rows), rng.uniform(0.25, 0.42)
    centres = [(i + 0.5 - columns / 2, j + 0.5 - rows / 2) for i in range(columns) for j in range(rows)]
    return [[(_CIRCLE[::3] * radius + centre) * pitch] for centre in centres]


def _lines(rng: np.random.Generator) -> Outline:
    count, bow = int(rng.integers(3, 7)), rng.normal(0, 0.3)
    along = np.linspace(-1, 1, 16)
    thickness = rng.uniform(0.03, 0.07)
    bundle = []
    for offset in np.linspace(-0.5, 0.5, count) * rng.uniform(0.5, 1.4):
        ends = rng.uniform(0.6, 1.0, 2)
        line = np.stack([np.where(along < 0, along * ends[0], along * ends[1]), bow * along**2 + offset], axis=1)
        bundle.append([ribbon(line + rng.normal(0, 0.02, (1, 2)), thickness)])
    return bundle


def _wave(rng: np.random.Generator) -> Outline:
    along = np.linspace(-1, 1, 80)
    phase = along * np.pi * rng.uniform(1.5, 4.0) + rng.uniform(0, 2 * np.pi)
    height = np.sin(phase) if rng.random() < 0.5 else np.arcsin(np.sin(phase)) * 2 / np.pi  # rounded or zigzag
    return [[ribbon(np.stack([along, rng.uniform(0.2, 0.5) * height], axis=1), rng.uniform(0.05, 0.16))]]


def _blob(rng: np.random.Generator) -> Outline:
    return [[wobbly_circle(rng, 0.5) * 0.8]]


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "arrow": _arrow,
    "crescent": _crescent,
    "stripes": _stripes,
    "checkers": _checkers,
    "dots": _dots,
    "lines": _lines,
    "wave": _wave,
    "blob": _blob,
}
