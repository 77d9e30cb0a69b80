"""The files of an adapter that go onto the hub and come from it, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from visionlora.adapters import AdapterCard, adapter_identity, load_arrays
from visionlora.errors import DataError
from visionlora.reporting import Report, Row, read_report

ADAPTER_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
REPORT, SCORES, DETECTIONS = "report.json", "report_scores.png", "report_detections.png"
CURVES = "curves.png"
KNOWN = (CARD_FILE, REPORT, SCORES, DETECTIONS, CURVES, ADAPTER_FILE)
"""All of them, the adapter last: where it stands, the rest does too."""
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class AdapterFiles:
    """The files of an adapter, read and found whole.

    Attributes:
        content: of each, by its name in `KNOWN`.
        card: what the adapter says about itself.
        report: what it was judged by, where that is there.
        row: the adapter, or its merged model, in that report.
    """

    content: Mapping[str, bytes]
    card: AdapterCard
    report: Report | None
    row: Row | None


def read_files(paths: Mapping[str, Path]) -> AdapterFiles:
    """Read the files of an adapter; nothing in them is run.

    Args:
        paths: where each lies, by its name in `KNOWN`; the adapter is one of them.

    Raises:
        AdapterError: the adapter is missing, damaged, or none.
        DataError: another file cannot be read, or is not what its name says; or the report is of other models.
    """
    adapter = paths[ADAPTER_FILE]
    card = load_arrays(adapter).card
    report = read_report(paths[REPORT]) if REPORT in paths else None
    row = None if report is None else _row_of(report, adapter_identity(adapter), paths[REPORT])
    content = {}
    for name, path in paths.items():
        try:
            content[name] = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        _check(path, content[name])
    return AdapterFiles(content, card, report, row)


def _row_of(report: Report, identity: str, path: Path) -> Row:
    """Return the first model of a report that was made from an adapter.

    Raises:
        DataError: there is none.
    """
    row = next((row for row in report.rows if row.parents.get("adapter") == identity), None)
    if row is None:
        raise DataError(
            f"{path}: expected a report of the adapter beside it ({identity:.12}), got one of other models; "
            "evaluate it again, or pass the adapter's file alone"
        )
    return row


def _check(path: Path, content: bytes) -> None:
    """Refuse what is not of the kind that the name of a file says, as far as nobody else reads it here."""
    if path.name.endswith(".png") and not content.startswith(_PNG):
        raise DataError(f"{path}: expected a PNG picture, got something else")
    if path.name == CARD_FILE:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: expected text in UTF-8, got other bytes: {error}") from error
