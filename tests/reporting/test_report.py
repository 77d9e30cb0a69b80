from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from visionlora.errors import DataError, OutputError
from visionlora.machine import installed_versions, this_machine
from visionlora.reporting import read_report, write_report
from visionlora.reporting.report import report_from_json, report_to_json


def test_report_survives_json(report) -> None:
    assert report_from_json(report_to_json(report)) == report


def test_missing_scores_are_null(report) -> None:
    rows = json.loads(report_to_json(report))["rows"]

    assert rows[3]["scores"] is None
    assert rows[1]["scores"]["per_class"][2]["ap50_95"] is None


def test_reference_is_the_first_model_that_knows_all_classes(report) -> None:
    assert report.reference.label == "merged"
    assert [row.label for row in report.complete_rows] == ["merged", "int8"]


def test_report_of_partial_models_has_no_reference(report) -> None:
    assert dataclasses.replace(report, rows=report.rows[:1]).reference is None


def test_written_report_is_read_back(tmp_path, report) -> None:
    write_report(report, tmp_path / "new")

    assert read_report(tmp_path / "new" / "report.json") == report
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "report.json",
        "report.md",
        "report_scores.png",
    ]


def test_existing_report_is_kept(tmp_path, report) -> None:
    (tmp_path / "report.md").write_text("mine")

    with pytest.raises(OutputError, match=r"report\.md: exists already"):
        write_report(report, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "mine"


def test_existing_report_is_replaced_where_asked(tmp_path, report) -> None:
    write_report(report, tmp_path)
    shorter = dataclasses.replace(report, rows=report.rows[:2])

    write_report(shorter, tmp_path, overwrite=True)

    assert read_report(tmp_path / "report.json") == shorter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "expected a report"),
        ("[]", "expected a report"),
        ("{}", "expected a report"),
        ('{"format": 99}', "expected a report of format 2, got 99"),
        ('{"format": 2}', "the report is damaged: data: Field required"),
    ],
)
def test_damaged_report_is_refused(tmp_path, text, message) -> None:
    (tmp_path / "report.json").write_text(text)

    with pytest.raises(DataError, match=message):
        read_report(tmp_path / "report.json")


def test_missing_report_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="got none that can be read"):
        read_report(tmp_path / "report.json")


def test_machine_and_versions_are_known() -> None:
    machine, versions = this_machine(), installed_versions()

    assert machine.cpu
    assert 1 <= machine.threads <= machine.cores
    assert {"python", "numpy", "pycocotools"} <= versions.keys()


def test_reporting_loads_no_network_and_nothing_that_draws() -> None:
    heavy = {"torch", "ultralytics", "onnxruntime", "matplotlib", "jinja2"}
    code = f"import sys, visionlora.reporting; print({heavy} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
