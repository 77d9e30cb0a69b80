"""docs/report.schema.json is the shape of every report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from visionlora.reporting import report
from visionlora.reporting.report import report_to_json
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.budget import Budget
from visionlora.workflows.evaluating import evaluate

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_schema_is_valid_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_schema_names_the_fields_of_every_part() -> None:
    for name, part in [("Report", SCHEMA), *SCHEMA["$defs"].items()]:
        if hasattr(report, name):
            assert set(part["properties"]) == {field.name for field in dataclasses.fields(getattr(report, name))}, name
    assert {"Row", "Scores", "Difference", "Verdict", "Retention", "OperatingPoint"} <= set(SCHEMA["$defs"])


def test_reports_fit_the_schema(request) -> None:
    made = request.getfixturevalue("report")
    judged = dataclasses.replace(made, verdict=judge_budget(made, Budget(max_drop=0.1)))

    for one in (made, judged):
        VALIDATOR.validate(json.loads(report_to_json(one)))


@pytest.mark.slow
def test_report_of_real_models_fits_the_schema(checkpoint, adapter, exported, surface, tmp_path) -> None:
    models = [f"adapter={checkpoint}+{adapter}", f"onnx={exported.path}"]
    evaluate(models, surface, imgsz=96, retention=surface, out=tmp_path, max_drop=0.5)

    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    VALIDATOR.validate(written)
    adapted, graph = written["rows"]
    assert adapted["parents"].items() <= graph["parents"].items()  # base and adapter by the same name in either
    assert written["retention"] and written["verdict"] and written["rows"][0]["operating"]["confusion"]


@pytest.mark.parametrize("change", [{"rows": None}, {"format": "two"}, {"machine": {}}], ids=str)
def test_anything_else_does_not_fit(change, request) -> None:
    fields = json.loads(report_to_json(request.getfixturevalue("report"))) | change

    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(fields)


@pytest.mark.parametrize("path", sorted([*ROOT.glob("docs/*/report.json"), *ROOT.glob("benchmarks/**/report*.json")]))
def test_committed_reports_fit_the_schema(path) -> None:
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields["format"] != report.FORMAT:
        pytest.skip(f"{path}: of format {fields['format']}, which is read with the version that wrote it")
    VALIDATOR.validate(fields)
