"""The pictures on which two models differ most: ground truth, before, after."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.reporting.page.outlines import Outline, outlines
from visionlora.reporting.page.svg import element, join, shortened, text_width
from visionlora.scoring import MATCHING_IOU, Outcome
from visionlora.vision.boxes import iou_matrix
from visionlora.vision.drawing import overlap, place_label
from visionlora.vision.preprocess import read_image

PANEL = 320
"""Longest side of a picture in the drawing's pixels."""
STORED = 480
"""Longest side of the embedded picture in pixels."""
PER_KIND = 3
SIGNS = {"truth": "", "right": "✓ ", "wrong": "✗ ", "missed": "○ "}
"""Before the name at a box: what became of it, for readers who cannot tell the colours apart."""
_QUALITY = 82
_LETTERS, _PLATE, _LONGEST = 9.5, 13, 150  # pixels of the drawing: size of letters, height and width of a label
_BOX = Outline()
KINDS = ("found now", "newly missed", "new false alarms", "still missed")


@dataclass(frozen=True)
class Shift:
    """How one image's outcome changed."""

    newly_missed: int
    new_false_alarms: int
    found_now: int
    still_missed: int
    false_alarms_gone: int

    @property
    def by_kind(self) -> dict[str, int]:
        """The counts under the names of `KINDS`."""
        counts = (self.found_now, self.newly_missed, self.new_false_alarms, self.still_missed)
        return dict(zip(KINDS, counts, strict=True))

    @property
    def total(self) -> int:
        """Everything that is not as it was."""
        return self.newly_missed + self.new_false_alarms + self.found_now + self.false_alarms_gone


def shift_between(before: Outcome, after: Outcome) -> Shift:
    """Compare two models on one image; both outcomes are on the same objects.

    A false alarm is new where the other model has none of its class on the same place (IoU 0.50 of boxes).
    """
    return Shift(
        newly_missed=int((before.found & ~after.found).sum()),
        new_false_alarms=_new_alarms(before, after),
        found_now=int((~before.found & after.found).sum()),
        still_missed=int((~before.found & ~after.found).sum()),
        false_alarms_gone=_new_alarms(after, before),
    )


def choose_images(shifts: Sequence[Shift], *, per_kind: int = PER_KIND) -> list[tuple[str, list[int]]]:
    """Return for each of `KINDS` the images that show it most, each image once, ties in the data set's order."""
    taken: set[int] = set()
    chosen = []
    for kind in KINDS:
        ranked = sorted(range(len(shifts)), key=lambda i: (-shifts[i].by_kind[kind], -shifts[i].total, i))
        picked = [i for i in ranked if shifts[i].by_kind[kind] and i not in taken][:per_kind]
        taken.update(picked)
        if picked:
            chosen.append((kind, picked))
    return chosen


@dataclass(frozen=True)
class Panel:
    """One drawing: its title, what a reader sees in words, and the drawing itself."""

    title: str
    caption: str
    drawing: Markup


def embedded(image: LabelledImage, name: str) -> Markup:
    """Return the picture as a definition that `panels` refer to by its name; its pixels are stored once."""
    pixels = read_image(image.path)
    scale = min(STORED / max(pixels.shape[:2]), 1.0)
    if scale < 1:
        size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    data = base64.b64encode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()).decode()
    width, height, _ = _fitted(image)
    return element("image", id=name, width=width, height=height, href=f"data:image/jpeg;base64,{data}")


def whole_picture(image: LabelledImage, name: str) -> Markup:
    """Return the picture as a drawing of its own, with nothing on it."""
    width, height, _ = _fitted(image)
    return element("svg", embedded(image, name), viewBox=f"0 0 {width:.1f} {height:.1f}", class_="panel")


def panels(
    image: LabelledImage, name: str, names: Sequence[str], outcomes: Sequence[tuple[str, Outcome]]
) -> list[Panel]:
    """Draw the ground truth, then what each model found of it, on one embedded picture."""
    width, height, scale = _fitted(image)
    labelled = outlines(image, scale)
    truth = [
        _Mark(box * scale, "truth", f"{names[class_id]} (crowd)" if crowd else names[class_id], outline=outline)
        for box, class_id, crowd, outline in zip(
            image.boxes_xyxy, image.class_ids, image.is_crowd, labelled, strict=True
        )
    ]
    count = int((~image.is_crowd).sum())
    drawing, hidden = _panel(name, width, height, truth)
    drawn = [Panel("ground truth", f"{count} object{'' if count == 1 else 's'}{_hidden(hidden)}", drawing)]
    for title, outcome in outcomes:
        missed = [
            _Mark(box * scale, "missed", names[class_id], outline=outline)
            for box, class_id, found, outline in zip(
                image.boxes_xyxy, image.class_ids, outcome.found, labelled, strict=True
            )
            if not found
        ]
        found = outcome.detections
        marks = [
            _Mark(box * scale, "right" if right else "wrong", names[class_id], f"{score:.2f}", outline)
            for box, class_id, score, right, outline in zip(
                found.boxes_xyxy, found.class_ids, found.scores, outcome.right, outlines(found, scale), strict=True
            )
        ]
        right, wrong = ([mark for mark in marks if mark.kind == kind] for kind in ("right", "wrong"))
        drawing, hidden = _panel(name, width, height, [*missed, *right, *wrong])
        caption = f"{int(outcome.right.sum())} found, {outcome.misses} missed, {_alarms(outcome.false_alarms)}"
        drawn.append(Panel(title, caption + _hidden(hidden), drawing))
    return drawn


@dataclass(frozen=True, eq=False)
class _Mark:
    """A box in the drawing's pixels with what is written at it, and what is drawn of its object beside it."""

    box_xyxy: NDArray[np.floating]
    kind: str
    name: str
    score: str = ""
    outline: Outline = _BOX

    @property
    def text(self) -> str:
        """The whole label."""
        return f"{SIGNS[self.kind]}{self.name} {self.score}".rstrip()


def _hidden(count: int) -> str:
    return f"; {count} label{'' if count == 1 else 's'} without room" if count else ""


def _alarms(count: int) -> str:
    return f"{count} false alarm{'' if count == 1 else 's'}"


def _new_alarms(old: Outcome, new: Outcome) -> int:
    """Count the false alarms of `new` that `old` does not have."""
    theirs, ours = old.detections, new.detections
    same = iou_matrix(ours.boxes_xyxy[~new.right], theirs.boxes_xyxy[~old.right]) >= MATCHING_IOU
    same &= ours.class_ids[~new.right][:, None] == theirs.class_ids[~old.right][None, :]
    return int((~same.any(axis=1)).sum())


def _fitted(image: LabelledImage) -> tuple[float, float, float]:
    """Return width and height of the drawing, and drawing pixels per image pixel."""
    scale = PANEL / max(image.size_wh)
    return image.size_wh[0] * scale, image.size_wh[1] * scale, scale


def _panel(name: str, width: float, height: float, marks: Sequence[_Mark]) -> tuple[Markup, int]:
    """Return the drawing, the first mark on top, and how many labels found no room; those are shown on pointing."""
    frames = [_frame(mark) for mark in reversed(marks)]
    plates: list[Markup] = []
    taken: list[tuple[int, int, int, int]] = []
    for mark in marks:
        text = _label(mark, width - 8)
        size = math.ceil(text_width(text, _LETTERS)) + 6, _PLATE
        left, top, right, bottom = (round(float(value)) for value in mark.box_xyxy)
        place = place_label((left, top, right, bottom), size, (int(width), int(height)), taken)
        if any(overlap(place, other) for other in taken):
            continue
        taken.append(place)
        plate = element("rect", x=place[0], y=place[1], width=size[0], height=_PLATE, class_="plate")
        written = element("text", text, x=place[0] + 3, y=place[1] + 10)
        plates.append(element("g", element("title", mark.text) + plate + written, class_=mark.kind))
    picture = element("use", href=f"#{name}")
    drawing = element(
        "svg", picture + join(frames) + join(plates), viewBox=f"0 0 {width:.1f} {height:.1f}", class_="panel"
    )
    return drawing, len(marks) - len(plates)


def _frame(mark: _Mark) -> Markup:
    left, top, right, bottom = (float(value) for value in mark.box_xyxy)
    sides = {"x": left, "y": top, "width": max(right - left, 1.0), "height": max(bottom - top, 1.0)}
    # A dark line under the bright one, so that it stands out from every picture.
    lines = mark.outline.drawn()
    if not mark.outline.polygons:
        lines = element("rect", class_="under", **sides) + element("rect", class_="line", **sides) + lines
    return element("g", element("title", mark.text) + lines, class_=mark.kind)


def _label(mark: _Mark, width: float) -> str:
    """Return what is written at a box; of a name that is too long for the picture the middle is left out."""
    before, after = SIGNS[mark.kind], f" {mark.score}" if mark.score else ""
    room = min(width, _LONGEST) - text_width(before + after, _LETTERS)
    return f"{before}{shortened(mark.name, room, _LETTERS)}{after}"
