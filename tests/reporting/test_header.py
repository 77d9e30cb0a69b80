"""Title, part and customer: in every file of the report, and text everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.reporting.generated import made_report
from visionlora import cli
from visionlora.errors import UsageError
from visionlora.reporting import read_report
from visionlora.reporting.header import ReportHeader, report_header
from visionlora.reporting.page import report_page
from visionlora.reporting.report import report_from_json, report_to_json
from visionlora.workflows.evaluating import evaluate

ODD = '<b>4711</b> & "x" `y` | *z* #1'


def test_options_stand_in_json_markdown_and_page(data, models, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    arguments = ["eval", "--model", models[1], "--data", str(data), "--out", str(out), "--html"]

    assert cli.main([*arguments, "--title", "Release 3", "--part", "Housing", "--customer", "ACME"]) == 0

    assert read_report(out / "report.json").header == ReportHeader("Release 3", "Housing", "ACME")
    page, text = (out / "report.html").read_text("utf-8"), (out / "report.md").read_text("utf-8")
    assert "<title>Release 3</title>" in page and "<dd>Housing</dd>" in page and "<dd>ACME</dd>" in page
    assert text.startswith("# Release 3\n\nPart: Housing. Customer: ACME.") and "--title 'Release 3'" in text


def test_header_is_text_wherever_it_stands(tmp_path) -> None:
    report, *rest = made_report(tmp_path, ["a", "b"], ["x"], pictures=4)
    titled = replace(report, header=ReportHeader(ODD, ODD, ODD))

    page = report_page(titled, *rest)

    assert "<b>4711" not in page and page.count("&lt;b&gt;4711&lt;/b&gt;") == 4  # title, heading, part, customer
    assert report_from_json(report_to_json(titled)) == titled


def test_markdown_has_no_markup_of_the_header(report) -> None:
    from visionlora.reporting import report_markdown

    text = report_markdown(replace(report, header=ReportHeader(ODD, ODD, "")))

    assert text.splitlines()[0] == r"# \<b\>4711\</b\> \& \"x\" \`y\` \| \*z\* \#1"
    assert "Customer" not in text and report_markdown(report).startswith("# Evaluation\n")


@pytest.mark.parametrize("text", ["", "a\nb", "x" * 121, "\u202ea", "\ud800", " a", "\x1b[31m"], ids=repr)
def test_what_is_no_line_is_refused_before_anything_is_done(text, data, tmp_path) -> None:
    with pytest.raises(UsageError, match="--part: expected one line of 1 to 120 characters"):
        evaluate([tmp_path / "missing.onnx"], data, part=text)


def test_nothing_given_is_no_header() -> None:
    assert report_header(None, None, None) is None
    assert report_header("a", None, None) == ReportHeader("a")
