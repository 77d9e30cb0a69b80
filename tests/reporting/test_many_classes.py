"""Thousands of classes take as long as thousands, not as millions: a name is not looked for among all the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visionlora.data import LabelledImage
from visionlora.machine import Machine
from visionlora.reporting import Report, Row, find_warnings, report_markdown
from visionlora.reporting.page import report_page
from visionlora.scoring import ClassCount, ClassScores, DataUsed, Scores, difference
from visionlora.scoring.bootstrap import Draws
from visionlora.scoring.model_scores import only_classes

COUNT = 3000


class Name(str):
    """A class name that counts how often it is held to another; one that is found in a dictionary is held to one."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def names(start: int = 0) -> tuple[Name, ...]:
    return tuple(Name(f"class {index}") for index in range(start, start + COUNT))


def scores(classes: tuple[Name, ...]) -> Scores:
    return Scores(0.5, 0.6, 0.5, tuple(ClassScores(name, 0.5, 0.6, 1, 1) for name in classes))


def row(label: str, classes: tuple[Name, ...]) -> Row:
    return Row(label, label, "checkpoint", "0" * 64, 1, 64, classes, scores(classes), 1.0)


@pytest.fixture
def report() -> Report:
    counts = tuple(ClassCount(name, 1, 1) for name in names())
    data = DataUsed("data.yaml", "0" * 64, "val", 2, counts)
    rows = (row("base", names()), row("part", names()[: COUNT // 2]), row("last", names()))
    return Report(data, Machine("A processor", 1, 1), {}, rows)


@pytest.fixture(autouse=True)
def counted() -> None:
    Name.compared = 0


def test_report_of_many_classes_holds_each_name_to_few_others(report) -> None:
    page, markdown = report_page(report, [], [None, None, None]), report_markdown(report)

    assert page.count("class 2999") > 1 and "class 2999" in markdown
    assert [one.label for one in report.complete_rows] == ["base", "last"]
    assert Name.compared < 300 * COUNT


def test_warnings_about_many_classes_hold_each_name_to_few_others(report) -> None:
    others = names(COUNT)
    stranger = replace(report, rows=(*report.rows, row("other", names()[:1])))

    told = find_warnings(stranger, (), {"base": names(), "part": names(), "last": names(), "other": others})

    assert any("other" in sentence for sentence in told)
    assert Name.compared < 30 * COUNT


def test_scores_of_many_classes_hold_each_name_to_few_others() -> None:
    ours, theirs = scores(names()), scores(names()[::-1])
    draws, other_draws = (Draws(classes, np.zeros((2, COUNT)), np.zeros((2, COUNT))) for classes in (names(), names()))
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)

    change = difference(ours, theirs, draws=draws, other_draws=other_draws, to="theirs")
    only_classes(LabelledImage(Path("a.png"), (9, 9), *nothing), names(), names()[1:])

    assert change.classes == names() and ours.mean_over(names()) == 0.5
    assert Name.compared < 30 * COUNT
