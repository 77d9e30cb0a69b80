from __future__ import annotations

import dataclasses
import json

from tests.reporting.generated import made_report
from visionlora.reporting import report_markdown
from visionlora.reporting.markdown import stage_sentences
from visionlora.reporting.page import report_page
from visionlora.reporting.report import report_to_json
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.bootstrap import Change, Interval
from visionlora.scoring.budget import Budget


def _tables(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """Each Markdown table by its first heading: row name -> column -> cell."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for block in text.split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = [
                [cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in block.split("\n")
            ]
            tables[" ".join(header[:2])] = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    return tables


def test_tables_show_the_numbers_of_the_json(report) -> None:
    rows = json.loads(report_to_json(report))["rows"]

    tables = _tables(report_markdown(report))

    for row in rows:
        line = tables["model mAP50-95"][row["label"]]
        scores = row["scores"] or {"map50_95": None, "map50": None, "per_class": []}
        assert line["mAP50-95"] == ("-" if scores["map50_95"] is None else f"{scores['map50_95']:.3f}")
        assert line["mAP50"] == ("-" if scores["map50"] is None else f"{scores['map50']:.3f}")
        assert line["classes"] == f"{len(row['classes'])}/4"
        assert line["MB"] == f"{row['bytes'] / 1e6:.2f}"
        assert line["ms per image"] == f"{row['ms_per_image']:.1f}"
        for one in scores["per_class"]:
            expected = "-" if one["ap50_95"] is None else f"{one['ap50_95']:.3f}"
            assert tables["class images"][one["name"]][row["label"]] == expected


def test_class_table_shows_every_class_and_its_counts(report) -> None:
    table = _tables(report_markdown(report))["class images"]

    assert list(table) == ["crack", "pit", "patch", "dent"]
    assert (table["crack"]["images"], table["crack"]["objects"]) == ("40", "57")
    assert (table["patch"]["images"], table["patch"]["merged"], table["patch"]["base"]) == ("0", "-", "-")


def test_sentences_say_what_each_stage_lost(report) -> None:
    assert stage_sentences(report) == [
        "`base` knows 2 of 4 classes (crack, pit): 0.178 on them; `merged` has 0.462 on the same; "
        "against that -0.284 (95% interval -0.334 to -0.234).",
        "`merged` is the reference: mAP50-95 0.462 on all 4 classes.",
        "`int8`: 0.448, against the reference `merged` -0.014 (95% interval -0.034 to +0.006): "
        "no measurable difference.",
        "`stranger` knows none of the 4 classes, so it has no score.",
    ]


def _with_onnx_between(report, to_merged: Change):
    merged, int8 = report.rows[1:3]
    onnx = dataclasses.replace(
        merged, label="onnx", differences=(dataclasses.replace(int8.differences[0], map50_95=to_merged),)
    )
    to_onnx = dataclasses.replace(int8.differences[0], to="onnx", map50_95=Change(-0.01, None))
    int8 = dataclasses.replace(int8, differences=(*int8.differences, to_onnx))
    return dataclasses.replace(report, rows=(merged, onnx, int8))


def test_later_stage_is_compared_with_the_one_before_and_with_the_reference(report) -> None:
    sentences = stage_sentences(_with_onnx_between(report, Change(-0.004, Interval(-0.006, -0.002))))

    assert sentences[1:] == [
        "`onnx`: 0.462, against the reference `merged` -0.004 (95% interval -0.006 to -0.002).",
        "`int8`: 0.448; against `onnx` -0.010 (too few images for an interval); "
        "against the reference `merged` -0.014 (95% interval -0.034 to +0.006): no measurable difference.",
    ]


def test_stage_before_that_changed_nothing_is_not_compared_with(report) -> None:
    sentences = stage_sentences(_with_onnx_between(report, Change(0.0, Interval(0.0, 0.0))))

    assert sentences[1] == "`onnx`: 0.462, the same as the reference `merged`."
    assert "`onnx`" not in sentences[2] and "the reference `merged` -0.014" in sentences[2]


def test_provenance_is_on_the_page(report) -> None:
    text = report_markdown(report)

    for part in (
        "A processor",
        "4 cores",
        "60 images of `data.yaml` (split val), 320 px",
        "numpy 2.0.0",
        "cdcdcdcdcdcd",
    ):
        assert part in text


def test_bars_in_names_do_not_break_the_tables(report) -> None:
    odd = dataclasses.replace(report, rows=(dataclasses.replace(report.rows[1], label="a|b"),))

    lines = [line for line in report_markdown(odd).splitlines() if "a\\|b" in line and line.startswith("|")]

    assert len(lines) == 3  # the models, the classes' heading, the provenance
    assert lines[0].replace("\\|", "").count("|") == 9


def test_pictures_are_shown_with_their_captions(report) -> None:
    assert "![Sheet](a.png)\n\nBefore and after." in report_markdown(
        report, pictures=[("Sheet", "a.png", "Before and after.")]
    )


def test_difference_stands_beside_the_score_with_its_interval(report) -> None:
    table = _tables(report_markdown(report))["model mAP50-95"]

    assert [line["difference (95%)"] for line in table.values()] == [
        "-0.284* [-0.334, -0.234]",
        "reference",
        "-0.014 [-0.034, +0.006]",
        "-",
    ]


def test_verdict_is_the_first_line(report) -> None:
    judged = dataclasses.replace(report, verdict=judge_budget(report, Budget(max_drop=0.02, min_map50=0.6)))

    assert report_markdown(judged).splitlines()[2].startswith("**Not passed**: `stranger` knows 0 of 4 classes")


def test_page_and_markdown_have_one_word_for_one_number(tmp_path) -> None:
    report, images, judgements = made_report(tmp_path, ["base", "int8"], ["crack", "pit"], pictures=2)
    page, markdown = report_page(report, images, judgements), report_markdown(report)

    for column in ("best threshold", "calibration error", "precision", "recall", "misses", "false alarms"):
        assert f">{column}<" in page and f" {column} " in markdown
    assert "best score" not in page + markdown
