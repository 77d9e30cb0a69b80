"""The table of the models, as the command and a notebook show a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from visionlora.reporting.formatting import (
    NO_SCORE,
    change_words,
    code,
    fraction,
    markdown_table,
    megabytes,
    signed,
    time_words,
)
from visionlora.reporting.measured import Measured
from visionlora.reporting.row import Row
from visionlora.scoring import DataUsed

MEASURED = Measured()


def complete_rows(rows: Sequence[Row], data: DataUsed) -> tuple[Row, ...]:
    """Return the models that know all the classes that have objects: only their means can be compared."""
    judged = set(data.judged)
    return tuple(row for row in rows if row.scores is not None and judged <= set(row.classes))


def reference_row(rows: Sequence[Row], data: DataUsed, against: str | None = None) -> Row | None:
    """Return the model that differences are taken to: `against` if it knows all classes, else the first that does."""
    complete = complete_rows(rows, data)
    return next((row for row in complete if row.label == against), next(iter(complete), None))


def summary_table(
    rows: Sequence[Row], data: DataUsed, against: str | None = None, *, words: Sequence[str] = MEASURED.words
) -> str:
    """Return one row a model: its scores, classes, size and time, as a Markdown table; `words` name the scores."""
    return markdown_table(*_summary(rows, data, against, words))


def summary_html(
    rows: Sequence[Row], data: DataUsed, against: str | None = None, *, words: Sequence[str] = MEASURED.words
) -> str:
    """Return the same as an HTML table, for a notebook."""
    header, cells = _summary(rows, data, against, words)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell.strip(chr(96)))}</td>' for cell in row)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _summary(
    rows: Sequence[Row], data: DataUsed, against: str | None, words: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of the models."""
    complete, reference = complete_rows(rows, data), reference_row(rows, data, against)
    boxed = any(row.boxes is not None for row in rows)
    stricter = words[0] == MEASURED.words[0]  # mAP75, which is of boxes and what has an overlap
    cells = [
        [
            code(row.label),
            fraction(row.scores.map50_95 if row.scores else None),
            _difference_cell(row, reference, mark="" if row in complete else "*"),
            fraction(row.scores.map50 if row.scores else None),
            *([fraction(row.scores.map75 if row.scores else None)] if stricter else []),
            *([fraction(row.boxes.map50_95 if row.boxes else None)] if boxed else []),
            f"{len(row.classes)}/{len(data.names)}",
            megabytes(row.bytes),
            time_words(row),
        ]
        for row in rows
    ]
    timed = any(row.timing is not None for row in rows)
    header = ["model", words[0], "difference (95%)", words[1], *["mAP75"] * stricter, *["of boxes"] * boxed]
    header += ["classes", "MB"]
    return [*header, "ms per image (5-95 %)" if timed else "ms per image"], cells


def _difference_cell(row: Row, reference: Row | None, *, mark: str) -> str:
    """Return the difference to the reference with its interval; a star where the model knows only some classes."""
    if row is reference:
        return "reference"
    difference = None if reference is None else row.difference_to(reference.label)
    if difference is None:
        return NO_SCORE
    change = difference.map50_95
    if change_words(change) == "the same":
        return f"the same{mark}"
    if change.interval is None:
        return signed(change.difference) + mark
    return f"{signed(change.difference)}{mark} [{signed(change.interval.low)}, {signed(change.interval.high)}]"
