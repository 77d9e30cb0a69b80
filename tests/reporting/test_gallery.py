"""Which pictures changed, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionlora.data import LabelledImage
from visionlora.reporting.page.gallery import Shift, choose_images, shift_between
from visionlora.scoring.operating import outcome_of
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

LEFT, RIGHT, AWAY = (0, 0, 20, 20), (50, 50, 80, 80), (100, 0, 120, 9)
IMAGE = LabelledImage(Path("a.png"), (200, 200), np.array([LEFT, RIGHT]), np.array([0, 1]))


def _outcome(*objects: tuple[int, tuple[int, ...]]):
    found = Detections([box for _, box in objects], [0.9] * len(objects), [class_id for class_id, _ in objects])
    return outcome_of(found, IMAGE, confidence=0.25, task=DETECT)


def test_found_lost_and_new_false_alarms_are_told_apart() -> None:
    before, after = _outcome((0, LEFT)), _outcome((1, RIGHT), (1, AWAY))

    assert shift_between(before, after) == Shift(1, 1, 1, 0, 0)
    assert shift_between(after, before) == Shift(1, 0, 1, 0, 1)


def test_same_false_alarm_is_not_new_but_another_class_is() -> None:
    assert shift_between(_outcome((0, AWAY)), _outcome((0, AWAY))) == Shift(0, 0, 0, 2, 0)
    assert shift_between(_outcome((0, AWAY)), _outcome((1, AWAY))).new_false_alarms == 1


def test_each_picture_is_shown_once_under_what_it_shows_most() -> None:
    shifts = [
        Shift(1, 0, 0, 0, 0),
        Shift(0, 0, 0, 0, 0),
        Shift(3, 2, 0, 0, 0),
        Shift(0, 1, 0, 0, 0),
        Shift(0, 0, 0, 1, 0),
    ]

    chosen = choose_images(shifts, per_kind=2)

    assert chosen == [("newly missed", [2, 0]), ("new false alarms", [3]), ("still missed", [4])]


def test_nothing_is_chosen_where_nothing_happened() -> None:
    assert choose_images([Shift(0, 0, 0, 0, 0)] * 3) == []
