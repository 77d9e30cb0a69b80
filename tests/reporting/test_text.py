"""Text of files and users in a report: no markup of a page, no control sequence in a terminal, no lost bytes."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from visionlora import cli
from visionlora.models import parse_spec
from visionlora.reporting import comparison_markdown, read_report, report_markdown
from visionlora.reporting.formatting import code, name_words
from visionlora.reporting.lineage import find_notes, find_warnings
from visionlora.reporting.report import report_to_json
from visionlora.reporting.summary import summary_table
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.budget import Budget
from visionlora.scoring.model_scores import ClassChange
from visionlora.workflows.evaluating import evaluate

HOSTILE = ["<script>alert(1)</script>", "a|b", "\x1b[31mred", "=cmd()", "one\ntwo", "`x`<b>", "![x](y)", "\u202eabc"]


def outside_of_code(text: str) -> str:
    """Return a page without what stands between backticks, and without lines of HTML, where Markdown is no markup."""
    return re.sub(r"<code>.*</code>", "", "".join(text.split("`")[::2]))


def renamed(report, name: str):
    """Return the report with a name in the place of a label, a class, a path and a role."""
    rows = []
    for row in report.rows[:3]:
        apart = tuple(replace(one, per_class=(ClassChange(name, one.map50_95),)) for one in row.differences)
        scores = replace(row.scores, per_class=(replace(row.scores.per_class[0], name=name), *row.scores.per_class[1:]))
        classes = (name, *row.classes[1:])
        rows.append(replace(row, scores=scores, classes=classes, differences=apart, parents={name: name}))
    rows[0] = replace(rows[0], label=name, file=name, kind=name, cut=0.25, precision=name)
    counts = (replace(report.data.classes[0], name=name), *report.data.classes[1:])
    data = replace(report.data, path=name, split=name, classes=counts)
    made = replace(report, rows=tuple(rows), data=data, command=f"visionlora eval --data {name}")
    names = {row.label: (*row.classes, name) for row in made.rows}
    made = replace(made, warnings=find_warnings(made, [], names), notes=find_notes(made, names))
    return replace(made, verdict=judge_budget(made, Budget(max_class_drop=0.0)))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_name_is_markup_or_steers_a_terminal(report, name) -> None:
    hostile = renamed(report, name)

    for page in (report_markdown(hostile), comparison_markdown(hostile, hostile, [_pair(hostile)])):
        outside = outside_of_code(page)
        for part in ("<script", "<b>", "![x](y)"):
            assert part not in outside, part
        assert "\x1b" not in page and "\u202e" not in page
        for line in page.splitlines():  # a table keeps its columns
            assert not line.startswith("|") or line.endswith(" |"), line
    columns = {line.replace("\\|", "").count("|") for line in str(hostile).splitlines()}
    assert columns == {9}
    assert "<script" not in hostile._repr_html_() and "\x1b" not in hostile._repr_html_()


def _pair(report):
    row = report.rows[0]
    return row.label, row, replace(row, sha256="9" * 64), row.differences[0]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_one_word_between_backticks(name) -> None:
    for text in (code(name), name_words(name)):
        assert text[0] == text[-1] == "`" and "`" not in text[1:-1] and text[1:-1].isprintable()


@pytest.mark.parametrize("name", ["crazing", "rolled-in_scale", "African wildlife", "café", "data.yaml", "犬"])
def test_ordinary_names_stay_as_they_are(name) -> None:
    assert name_words(name) == name


def test_console_and_pages_of_a_model_with_hostile_classes(data, onnx_model, tmp_path, capsys) -> None:
    names = ("<script>alert(1)</script>", "=cmd|\x1b[31m")
    data.write_text(data.read_text().replace("[scratch, pit]", json.dumps(list(names))))
    model = onnx_model((names[0], "dog"), [(16, 20, 20, 24), (44, 40, 24, 20)])
    command = ["eval", "--model", f"\x1b[2J<b>={model}", "--data", str(data), "--out", str(tmp_path / "out"), "--html"]

    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert cli.main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_not_utf_8_are_judged_and_written(data, onnx_model, tmp_path) -> None:
    """Names of Latin-1 bytes, which Python holds as lone surrogates, in pictures and folders."""
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    data.parent.rename(folder)
    picture, label = folder / "images" / "val" / "0.png", folder / "labels" / "val" / "0.txt"
    for path in (picture, label):
        path.rename(path.with_name(os.fsdecode(b"caf\xe9") + path.suffix))
    model = onnx_model(("scratch", "pit"), [(16, 20, 20, 24), (44, 40, 24, 20)])

    report = evaluate([str(model)], folder / "data.yaml", out=tmp_path / "out", html=True)

    assert report.data.images == 4 and parse_spec(os.fsdecode(b"mod\xe8le.onnx")).label == "mod\\udce8le.onnx"
    assert read_report(tmp_path / "out" / "report.json") == report
    for name in ("report.html", "report.md"):
        assert "donn\\udce9es" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_repr_is_short_and_html_is_escaped(report) -> None:
    odd = replace(report, rows=(replace(report.rows[1], label="<i>"),))

    assert repr(report) == "<Report of 60 images, mAP50-95: base 0.178, merged 0.462, int8 0.448, stranger ->"
    assert "<i>" not in odd._repr_html_() and "&lt;i&gt;" in odd._repr_html_()
    assert str(report) == summary_table(report.rows, report.data) and len(report_to_json(report)) > 2000
