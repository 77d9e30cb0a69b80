"""Classes without objects are judged by nobody: the reference, intervals and the budget do not hang on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from visionlora.reporting import report_markdown
from visionlora.reporting.formatting import alarms_words, misses_words
from visionlora.reporting.markdown import stage_sentences
from visionlora.scoring.operating import OperatingPoint
from visionlora.workflows.evaluating import evaluate


@pytest.fixture
def unused(data):
    """The pictures with a class more that has no object, as a parent category of a COCO file."""
    data.write_text(data.read_text().replace("[scratch, pit]", "[scratch, pit, defect]"))
    return data


def test_class_without_objects_takes_nothing_away(unused, models) -> None:
    report = evaluate(models, unused, max_drop=0.6, max_class_drop=1, min_map50=0.4)

    assert report.reference.label == "perfect.onnx" and [row.label for row in report.complete_rows][1:] == ["half"]
    assert report.rows[2].differences[0].map50_95.interval is not None
    assert report.passed, report.verdict.sentence
    assert stage_sentences(report)[1] == (
        "`perfect.onnx` is the reference: mAP50-95 1.000 on all 2 classes that have objects."
    )
    assert not any("defect" in told for told in (*report.warnings, *report.notes))


def test_where_no_class_has_objects_all_are_asked_for(report) -> None:
    empty = replace(report.data, classes=tuple(replace(one, images=0, objects=0) for one in report.data.classes))

    assert empty.judged == empty.names and report.data.judged == ("crack", "pit", "dent")


def test_misses_and_alarms_are_counts_and_shares() -> None:
    point = OperatingPoint(0.25, 0.8, 0.61, 0.7, 44, 28, 11, 737, 289, 20, 9, 0.7, 0.3, ())

    assert (misses_words(point), alarms_words(point)) == ("28 of 72 (39%)", "11 in 9 images")
    assert alarms_words(replace(point, false_alarms=0)) == "0"
    assert misses_words(replace(point, found=0, misses=0)) == "0 of 0"


def test_score_of_few_objects_of_a_size_is_their_count_and_partial_models_have_a_star(report) -> None:
    point = OperatingPoint(0.25, 0.8, 0.61, 0.7, 44, 28, 11, 737, 289, 20, 9, 0.7, 0.3, ())
    rows = tuple(
        replace(
            row,
            operating=point,
            scores=replace(row.scores, map_small=0.0, map_medium=0.412, map_large=None, sizes=(1, 57, 0)),
        )
        for row in report.rows[:2]
    )

    page = report_markdown(replace(report, rows=rows))

    table = page.partition("## At score 0.25")[2]
    assert "| `base`* " in table and "| `merged` " in table and "A star: on some of the classes alone" in table
    assert "- (1 object) / 0.412 / -" in table and "28 of 72 (39%)" in table


def test_objects_are_counted_by_size(data, models) -> None:
    scores = evaluate(models[1:2], data).rows[0].scores

    assert scores.sizes == (8, 0, 0)  # all are below 32 x 32 pixels
