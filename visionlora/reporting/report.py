"""The report: numbers of several models on one data set, with what they belong to; as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from visionlora.errors import DataError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import printable
from visionlora.machine import Machine
from visionlora.reporting.header import ReportHeader
from visionlora.reporting.measured import Measured
from visionlora.reporting.per_image import PerImage
from visionlora.reporting.retention import Retention
from visionlora.reporting.row import Row
from visionlora.reporting.summary import complete_rows, reference_row, summary_html, summary_table
from visionlora.scoring import DataUsed, Verdict
from visionlora.tasks import TASKS, Classify

FORMAT = 2
"""Version of report.json; raised when a field changes its meaning."""
_WHAT = "a report.json of visionlora, or the folder of a run"
_PLAIN = "detect"
_HIGHEST = 2**63
"""Numbers stay below."""


@dataclass(frozen=True)
class Report:
    """Several models under one ruler; `versions` are those of the packages that produced the numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    data: DataUsed
    machine: Machine
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    format: int = FORMAT
    created: str = ""
    """When, in UTC, as ISO 8601 writes it."""
    against: str | None = None
    """The model that losses were asked to count from; None for the first that knows all the classes with objects."""
    command: str = ""
    """The command line that makes this report."""
    seconds: float = 0.0
    """How long it took."""
    warnings: tuple[str, ...] = ()
    """What a reader must know before trusting the numbers, a sentence each."""
    notes: tuple[str, ...] = ()
    """What is as expected but good to know, a sentence each."""
    verdict: Verdict | None = None
    """None where no limit was given."""
    retention: Retention | None = None
    per_image: PerImage | None = None
    header: ReportHeader | None = None
    """What whoever ordered the report wants to stand above it."""
    task: str = _PLAIN
    """What the models find, by the name of a task; absent for `detect`."""

    @property
    def measured(self) -> Measured:
        """What the scores are of, in words."""
        task = TASKS.get(self.task)
        return Measured(task.noun, task.similarity, task.score_words) if task else Measured()

    @property
    def is_of_classes(self) -> bool:
        """Whether the models classify pictures: their scores are accuracies, and there are no boxes."""
        return self.task in TASKS and not TASKS[self.task].boxes

    @property
    def complete_rows(self) -> tuple[Row, ...]:
        """The models that know all the classes that have objects: only their means can be compared with each other."""
        return complete_rows(self.rows, self.data)

    @property
    def reference(self) -> Row | None:
        """The model that the differences are taken to: `against`, or the first that knows all classes with objects."""
        return reference_row(self.rows, self.data, self.against)

    @property
    def passed(self) -> bool:
        """Whether no limit is missed; true where none was given."""
        return self.verdict is None or self.verdict.passed

    def __repr__(self) -> str:
        """Return the scores in a line; `str` of it is the table, and `report_to_json` everything."""
        scores = ", ".join(
            f"{printable(row.label)} {'-' if (score := row.scores and row.scores.map50_95) is None else f'{score:.3f}'}"
            for row in self.rows
        )
        verdict = "" if self.verdict is None else f", {'passed' if self.verdict.passed else 'not passed'}"
        return f"<Report of {self.data.images} images, {self.measured.words[0]}: {scores}{verdict}>"

    def __str__(self) -> str:
        """Return the table of the models, as the command prints it."""
        return summary_table(self.rows, self.data, self.against, words=self.measured.words)

    def _repr_html_(self) -> str:
        """Return the table of the models as HTML, for a notebook."""
        return summary_html(self.rows, self.data, self.against, words=self.measured.words)


_ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)


def report_to_json(report: Report) -> str:
    """Return the report as indented JSON; fractions are unrounded, missing scores are null."""
    fields = _ADAPTER.dump_python(report, mode="json")
    if report.task == _PLAIN:
        del fields["task"]
    for row in fields["rows"]:
        for name in ("boxes", "confusion"):
            if row[name] is None:
                del row[name]
    fields = _renamed(fields, _ACCURACY) if report.is_of_classes else _without(fields, "pooled")
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_from_json(text: str | bytes) -> Report:
    """Read what `report_to_json` wrote.

    Raises:
        DataError: the text is no report, or one of another format version.
    """
    try:
        fields = parse_json(text)
        version = fields["format"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"expected {_WHAT}, got something else: {error}") from error
    if version != FORMAT or isinstance(version, bool):
        raise DataError(
            f"expected a report of format {FORMAT}, got {version!r:.40}; read it with the version that wrote it"
        )
    _check_numbers(fields)
    try:
        if fields.get("task") == Classify.name:
            fields = _renamed(fields, {new: old for old, new in _ACCURACY.items()})
        return _ADAPTER.validate_python(fields)
    except RecursionError as error:
        raise DataError("the report is damaged: it is nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"the report is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


_ACCURACY = {"map50_95": "top1", "map50": "top5", "ap50_95": "class_top1", "ap50": "class_top5"}
"""What the scores of classifiers are called in a file."""


def _renamed(fields: Any, names: Mapping[str, str]) -> Any:
    """Return fields, at whatever depth, under other names."""
    if isinstance(fields, list):
        return [_renamed(value, names) for value in fields]
    if not isinstance(fields, dict):
        return fields
    return {names.get(name, name): _renamed(value, names) for name, value in fields.items()}


def _without(fields: Any, name: str) -> Any:
    """Return fields without those of a name, at whatever depth."""
    if isinstance(fields, list):
        return [_without(value, name) for value in fields]
    if not isinstance(fields, dict):
        return fields
    return {key: _without(value, name) for key, value in fields.items() if key != name}


def read_report(path: Path | str) -> Report:
    """Read a report.json.

    Raises:
        DataError: the file is missing or no report.
    """
    try:
        if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):  # a pipe could wait for ever
            raise DataError(f"{path}: expected a report.json, got a pipe or a device; give a regular file")
        content = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: expected {_WHAT}, got none that can be read; {reason}") from error
    try:
        return report_from_json(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_numbers(fields: Any) -> None:
    """Refuse numbers that no report has and no table can show: infinite, not a number, or of hundreds of digits.

    Raises:
        DataError: there is one.
    """
    waiting = [fields]
    while waiting:  # not by recursion: the nesting may be as deep as JSON allows
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float) and not -_HIGHEST < value < _HIGHEST:  # also one that is no number
            raise DataError("the report is damaged: it holds a number that is out of range")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of report.json; `docs/report.schema.json` is this."""
    schema = _ADAPTER.json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"format {FORMAT}; written by visionlora.reporting.report.report_schema",
        **schema,
    }
