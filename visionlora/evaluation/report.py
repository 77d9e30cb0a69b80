"""The report: numbers of several models on one data set, with what they belong to; as JSON and back."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.errors import DataError
from visionlora.evaluation.coco import ClassCount, ClassScores, Scores

FORMAT = 1
"""Version of report.json; raised when a field changes its meaning."""

_PACKAGES = ("visionlora", "torch", "ultralytics", "onnxruntime", "numpy", "pycocotools")


@dataclass(frozen=True)
class DataUsed:
    """The labelled images that the numbers belong to; counts of the classes are in the order of their ids."""

    path: str
    content_hash: str
    split: str
    images: int
    classes: tuple[ClassCount, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their ids."""
        return tuple(one.name for one in self.classes)


@dataclass(frozen=True)
class Machine:
    """Where the milliseconds were measured; `threads` are the processors that this process may use."""

    cpu: str
    cores: int
    threads: int


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        label: what the model is called in the report, unlike any other row's.
        file: its path; of a base with an adapter, the adapter's.
        kind: what the file is: "checkpoint", "adapter", "onnx" or "int8".
        sha256: of the file.
        bytes: of the file.
        image_size: side of the network's input in pixels.
        classes: the data set's classes that the model knows.
        scores: over these classes; None if there are none.
        ms_per_image: median milliseconds of the network alone at batch 1.
        parents: role and SHA-256 of the files that this one was made from.
    """

    label: str
    file: str
    kind: str
    sha256: str
    bytes: int
    image_size: int
    classes: tuple[str, ...]
    scores: Scores | None
    ms_per_image: float
    parents: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Several models under one ruler; `versions` are those of the packages that produced the numbers."""

    data: DataUsed
    machine: Machine
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    format: int = FORMAT

    @property
    def complete_rows(self) -> tuple[Row, ...]:
        """The models that know all the classes: only their means can be compared with each other."""
        return tuple(row for row in self.rows if row.scores is not None and set(row.classes) == set(self.data.names))

    @property
    def reference(self) -> Row | None:
        """The first model that knows all the classes; the differences are taken to it."""
        return next(iter(self.complete_rows), None)


def this_machine() -> Machine:
    """Return the processor's name and counts."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(cpu=_cpu_name(), cores=os.cpu_count() or 1, threads=threads or 1)


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that decide about the numbers, without importing them."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a machine that evaluates ONNX files needs no torch
    return versions


def report_to_json(report: Report) -> str:
    """Return the report as indented JSON; fractions are unrounded, missing scores are null."""
    return json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_from_json(text: str) -> Report:
    """Read what `report_to_json` wrote.

    Raises:
        DataError: the text is no report, or one of another format version.
    """
    try:
        fields = json.loads(text)
        version = fields["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected a report of visionlora, got something else: {error}") from error
    if version != FORMAT:
        raise DataError(f"expected a report of format {FORMAT}, got {version}; read it with the version that wrote it")
    try:
        return Report(
            data=_data(fields["data"]),
            machine=Machine(**fields["machine"]),
            versions=fields["versions"],
            rows=tuple(_row(row) for row in fields["rows"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"the report is damaged: {error}") from error


def read_report(path: Path | str) -> Report:
    """Read a report.json.

    Raises:
        DataError: the file is missing or no report.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return report_from_json(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _data(fields: dict[str, Any]) -> DataUsed:
    return DataUsed(**{**fields, "classes": tuple(ClassCount(**one) for one in fields["classes"])})


def _row(fields: dict[str, Any]) -> Row:
    scores = fields["scores"]
    if scores is not None:
        scores = Scores(**{**scores, "per_class": tuple(ClassScores(**one) for one in scores["per_class"])})
    return Row(**{**fields, "classes": tuple(fields["classes"]), "scores": scores})


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"
