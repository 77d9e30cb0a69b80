"""The charts of report.html: marks stand where the numbers say, and names are text."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.reporting.confusion import confusion_tables
from visionlora.reporting.page import charts
from visionlora.reporting.page.svg import WIDTH, element, ticks
from visionlora.scoring.coco import score_and_match
from visionlora.scoring.matches import RECALLS
from visionlora.scoring.operating import Confusion, OperatingPoint
from visionlora.scoring.score_calibration import calibration
from visionlora.tasks import DETECT

IMAGES, FOUND = random_case(2, images=30, classes=2, detections=12)
MATCHES = score_and_match(FOUND, IMAGES, ["crack", "pit"], task=DETECT)[1]


def _marks(drawing: str, name: str, kind: str = "") -> list[ElementTree.Element]:
    return [
        one for one in ElementTree.fromstring(drawing).iter(name) if kind in [*(one.get("class") or "").split(), ""]
    ]


def test_bars_are_as_long_as_the_scores(report) -> None:
    rows = list(enumerate(report.rows[1:3]))

    bars = _marks(charts.class_bars(report, rows), "rect", "bar")

    scores = [one.ap50_95 for name in (0, 1, 3) for _, row in rows for one in row.scores.per_class[name : name + 1]]
    lengths = [float(one.get("width")) for one in bars]
    assert len(bars) == 6  # three classes with objects, two models
    assert [length / lengths[0] for length in lengths] == pytest.approx([s / scores[0] for s in scores], abs=0.01)


def test_class_that_a_model_does_not_know_has_no_bar(report) -> None:
    stranger = replace(
        report.rows[0], scores=replace(report.rows[0].scores, per_class=report.rows[0].scores.per_class[:1])
    )

    drawing = charts.class_bars(report, [(0, stranger)])

    assert len(_marks(drawing, "rect", "bar")) == 1 and "base does not know pit" in drawing


def test_curve_goes_through_every_precision(report) -> None:
    precision = np.linspace(1, 0, len(RECALLS))

    (line,) = _marks(charts.precision_recall([(0, "a", precision)], label="x"), "path", "curve")

    points = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", line.get("d")), dtype=float)
    assert len(points) == 101 and (np.diff(points[:, 0]) > 0).all() and (np.diff(points[:, 1]) > 0).all()


def test_histogram_counts_every_detection_above_its_edge() -> None:
    drawing = charts.score_histogram(MATCHES, 0, confidence=0.25, label="a")

    said = re.findall(r"score [\d.]+ to [\d.]+: (\d+) (right|false)", drawing)
    above = MATCHES.scores >= 0.1
    assert sum(int(count) for count, word in said if word == "right") == int(MATCHES.right[above, 0].sum())
    assert sum(int(count) for count, word in said if word == "false") == int((~MATCHES.right[above, 0]).sum())


def test_calibration_has_a_dot_for_each_bin_with_detections() -> None:
    result = calibration(MATCHES, confidence=0.25)

    dots = _marks(charts.reliability(result, 0, label="a"), "circle", "dot")

    assert len(dots) == sum(one.detections > 0 for one in result.bins) > 5


def _scored(report, label: str, score: float):
    return replace(report.rows[1], label=label, scores=replace(report.rows[1].scores, map50_95=score))


def test_front_joins_the_models_that_no_other_beats(report) -> None:
    rows = [(i, _scored(report, f"m{i}", score)) for i, score in enumerate([0.3, 0.5, 0.4, 0.6])]

    drawing = charts.trade_off(rows, [1.0, 2.0, 3.0, 4.0], x_title="ms")

    (front,) = _marks(drawing, "path", "front")
    places = [(one.get("cx"), one.get("cy")) for one in _marks(drawing, "circle", "dot")]
    through = {(round(float(x), 1), round(float(y), 1)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", front.get("d"))}
    on_front = [(round(float(x), 1), round(float(y), 1)) in through for x, y in places]
    assert on_front == [True, True, False, True]


def test_names_of_equal_models_do_not_cover_each_other(report) -> None:
    rows = [(i, _scored(report, f"model {i}", 0.4)) for i in range(5)]

    drawing = charts.trade_off(rows, [3.0] * 5, x_title="ms")

    heights = sorted(float(one.get("y")) for one in _marks(drawing, "text", "name"))
    assert len(heights) == 5 and min(np.diff(heights)) >= 13.5
    assert all(0 < float(one.get("x")) < WIDTH for one in _marks(drawing, "text", "name"))


def test_difference_is_marked_by_what_it_means(report) -> None:
    base, _, int8, _ = report.rows

    assert "worse" in charts.forest(base, "merged", 0.3) and "same" in charts.forest(int8, "merged", 0.3)
    assert charts.forest(int8, "nobody", 0.3) == "" and charts.forest(int8, "merged", 0.0) == ""


def test_text_is_escaped_everywhere() -> None:
    assert element("text", "<b>", x=1.0, title='"') == '<text x="1" title="&#34;">&lt;b&gt;</text>'


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.37, 0.47, [0.38, 0.4, 0.42, 0.44, 0.46]), (-95, 14, [-75, -50, -25, 0])],
)
def test_ticks_are_round_and_inside(low, high, expected) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_many_classes_list_their_confusions_instead_of_a_matrix(report) -> None:
    names = tuple(f"class {i}" for i in range(20))
    cells = (*tuple(Confusion(names[i], names[i + 1], i + 1) for i in range(19)), Confusion(names[0], names[0], 99))
    point = OperatingPoint(0.25, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0.5, cells)

    table = confusion_tables(replace(report.rows[1], classes=names, operating=point), names)

    assert not table.rows and table.frequent[0] == ("class 18", "class 19", 19) and len(table.frequent) == 19


def test_rows_of_the_matrix_share_out_their_objects(report) -> None:
    cells = (Confusion("crack", "crack", 3), Confusion("crack", None, 1), Confusion(None, "pit", 2))
    point = OperatingPoint(0.25, 1, 1, 1, 3, 1, 2, 0, 0, 0, 0, 1, 0.5, cells)

    table = confusion_tables(replace(report.rows[1], operating=point), report.data.names)

    rows = dict(table.rows)
    assert [cell.count for cell in rows["crack"]] == [3, 0, 0, 0, 1] and rows["crack"][0].share == 0.75
    assert [cell.count for cell in rows["nothing there"]] == [0, 2, 0, 0, 0] and not rows["nothing there"][4].right
