"""Draw circuit boards in black and white with six kinds of small defects: a far domain with small details.

    python benchmarks/accuracy/boards.py --out runs/boards

Copper is white. Tracks run on a grid in the eight directions between pads; each defect is cut from them or added to
them, and its box has a margin of a few pixels around what changed. Pictures are 640 px; the same seed draws the same.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import yaml

SIDE, PITCH = 640, 32
MARGIN = 4  # around what a defect changed, in pixels
COPPER, BARE = 255, 0
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))  # each an eighth of a turn on
Point = tuple[int, int]


class Board:
    """Tracks, each a chain of grid points, and the picture of them."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.image = np.full((SIDE, SIDE), BARE, np.uint8)
        self.edges: list[tuple[Point, Point, int]] = []  # ends and width of each straight piece
        self.pads: list[tuple[Point, int]] = []  # centre and radius
        taken: set[Point] = set()
        for _ in range(int(random.integers(50, 90))):
            self._route(taken)

    def _route(self, taken: set[Point]) -> None:
        """Add one track from a free point, straight on for most of the way, until it meets another."""
        cells = SIDE // PITCH
        point = (int(self.random.integers(1, cells)), int(self.random.integers(1, cells)))
        if point in taken:
            return
        step, width = STEPS[self.random.integers(len(STEPS))], int(self.random.integers(5, 11))
        chain = [point]
        for _ in range(int(self.random.integers(3, 14))):
            if self.random.random() < 0.25:
                turn = STEPS.index(step)
                step = STEPS[(turn + int(self.random.choice((-1, 1)))) % len(STEPS)]
            following = (chain[-1][0] + step[0], chain[-1][1] + step[1])
            if following in taken or following in chain or not all(0 < value < cells for value in following):
                break
            chain.append(following)
        taken |= set(chain)
        pixels = [(x * PITCH, y * PITCH) for x, y in chain]
        for start, end in itertools.pairwise(pixels):
            cv2.line(self.image, start, end, COPPER, width)
            self.edges.append((start, end, width))
        for end in {pixels[0], pixels[-1]}:
            radius = int(self.random.integers(9, 14))
            cv2.circle(self.image, end, radius, COPPER, -1)
            cv2.circle(self.image, end, radius // 3, BARE, -1)
            self.pads.append((end, radius))

    def spot(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
        """Return a point on a track, the directions along and across it, and its width."""
        if not self.edges:
            return None
        start, end, width = self.edges[self.random.integers(len(self.edges))]
        a, b = np.array(start, float), np.array(end, float)
        along = (b - a) / np.linalg.norm(b - a)
        place = a + (b - a) * self.random.uniform(0.35, 0.65)
        return place, along, np.array([-along[1], along[0]]), width

    def dot(self, at: np.ndarray, radius: float, colour: int) -> None:
        """Draw a disk that is not quite round."""
        axes = (max(1, round(radius * self.random.uniform(0.8, 1.3))), max(1, round(radius)))
        centre = (round(at[0]), round(at[1]))
        cv2.ellipse(self.image, centre, axes, float(self.random.uniform(0, 180)), 0, 360, colour, -1)


def open_circuit(board: Board) -> None:
    """Interrupt a track."""
    if spot := board.spot():
        place, along, across, width = spot
        half = board.random.uniform(1.5, 4)
        corners = [
            place + along * half * i + across * (width / 2 + 2) * j for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        cv2.fillPoly(board.image, [np.round(corners).astype(np.int32)], BARE)


def short(board: Board) -> None:
    """Join a track to whatever copper lies nearest beside it."""
    if spot := board.spot():
        place, _, across, width = spot
        side = across * board.random.choice((-1, 1))
        for distance in range(width // 2 + 4, 2 * PITCH):
            x, y = np.round(place + side * distance).astype(int)
            if not (0 <= x < SIDE and 0 <= y < SIDE):
                return
            if board.image[y, x] == COPPER:
                ends = [tuple(int(v) for v in np.round(end)) for end in (place, place + side * (distance + 1))]
                cv2.line(board.image, *ends, COPPER, int(board.random.integers(3, 7)))
                return


def mouse_bite(board: Board) -> None:
    """Bite into the edge of a track."""
    if spot := board.spot():
        place, _, across, width = spot
        board.dot(place + across * width / 2 * board.random.choice((-1, 1)), board.random.uniform(2, width / 2.2), BARE)


def spur(board: Board) -> None:
    """Grow a bump on the edge of a track."""
    if spot := board.spot():
        place, _, across, width = spot
        board.dot(place + across * (width / 2 + 1) * board.random.choice((-1, 1)), board.random.uniform(2, 4), COPPER)


def spurious_copper(board: Board) -> None:
    """Leave a speck of copper where none is."""
    near = 10
    for _ in range(20):
        x, y = board.random.integers(near, SIDE - near, 2)
        if not board.image[y - near : y + near, x - near : x + near].any():
            board.dot(np.array((x, y), float), board.random.uniform(2.5, 5.5), COPPER)
            return


def pin_hole(board: Board) -> None:
    """Prick a hole into a pad, off its drill."""
    if board.pads:
        (x, y), radius = board.pads[board.random.integers(len(board.pads))]
        angle = board.random.uniform(0, 2 * math.pi)
        place = np.array((x, y)) + 0.65 * radius * np.array((math.cos(angle), math.sin(angle)))
        board.dot(place, board.random.uniform(1.2, 2.2), BARE)


DEFECTS: dict[str, Callable[[Board], None]] = {
    "open": open_circuit,
    "short": short,
    "mouse bite": mouse_bite,
    "spur": spur,
    "spurious copper": spurious_copper,
    "pin hole": pin_hole,
}


def draw(seed: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Return a board of (640, 640) uint8, and class and box (left, top, right, bottom) in pixels of each defect."""
    random = np.random.default_rng(seed)
    board = Board(random)
    boxes: list[tuple[int, np.ndarray]] = []
    for _ in range(int(random.integers(3, 11))):
        number = int(random.integers(len(DEFECTS)))
        before = board.image.copy()
        list(DEFECTS.values())[number](board)
        changed = np.argwhere(board.image != before)
        if len(changed) < 4:
            board.image = before
            continue
        (top, left), (bottom, right) = changed.min(0) - MARGIN, changed.max(0) + 1 + MARGIN
        box = np.clip(np.array((left, top, right, bottom), float), 0, SIDE)
        if any(overlap(box, other) for _, other in boxes):
            board.image = before
            continue
        boxes.append((number, box))
    return board.image, boxes


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes share anything."""
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


def write_set(out: Path, counts: dict[str, int], seed: int) -> Path:
    """Write the data set; return its data.yaml."""
    for part, (split, count) in enumerate(counts.items()):
        for folder in ("images", "labels"):
            (out / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, boxes = draw((seed, part, index))
            cv2.imwrite(str(out / "images" / split / f"board_{index:03d}.png"), image)
            rows = []
            for number, (left, top, right, bottom) in boxes:
                values = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                rows.append(f"{number} " + " ".join(f"{value / SIDE:.6f}" for value in values))
            (out / "labels" / split / f"board_{index:03d}.txt").write_text("".join(row + "\n" for row in rows))
    description = {**{split: f"images/{split}" for split in counts}, "names": list(DEFECTS)}
    (out / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return out / "data.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=300, help="training pictures")
    parser.add_argument("--val", type=int, default=150, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_set(options.out, {"train": options.train, "val": options.val}, options.seed))


if __name__ == "__main__":
    main()
