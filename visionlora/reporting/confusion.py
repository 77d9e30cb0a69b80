"""Confusion matrices as tables, whose cells are the darker the larger their share of the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visionlora.reporting.row import Row
from visionlora.scoring import Confusion

WIDEST = 12
"""Classes of the largest matrix that is drawn; of more, the most frequent confusions are listed."""
LISTED = 20
MISSED, NOTHING, FOREIGN = "missed", "nothing there", "another class"
CONFUSED = ("class", "taken for", "pictures")


@dataclass(frozen=True)
class Cell:
    """A count, its share of the row in [0, 1], and whether it is a right one."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class ConfusionTable:
    """Rows are objects (the last: false alarms on nothing), columns detections (the last: misses).

    Of a classifier both are classes, and the last column is of those that the data set does not have.
    `frequent` lists truth, detection and count of the most frequent confusions instead, where there are many classes.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    frequent: tuple[tuple[str, str, int], ...]


def frequent_confusions(row: Row) -> tuple[tuple[str, str, int], ...]:
    """Return truth, what was found and how often, the most frequent first, of a model's confusions."""
    wrong = sorted((cell for cell in _cells(row) if cell.truth != cell.found), key=lambda cell: -cell.count)
    nothing = MISSED if row.confusion is None else FOREIGN
    return tuple((cell.truth or NOTHING, cell.found or nothing, cell.count) for cell in wrong[:LISTED])


def confusion_tables(row: Row, names: Sequence[str]) -> ConfusionTable:
    """Return a model's confusion matrix, on the classes that it knows."""
    if len(row.classes) > WIDEST:
        return ConfusionTable((), (), frequent_confusions(row))
    counts = {(cell.truth, cell.found): cell.count for cell in _cells(row)}
    known = [name for name in names if name in row.classes]
    labels: list[str | None] = [*known, None]
    nothing = MISSED
    truths = labels
    if row.confusion is not None:  # a classifier always finds one of its classes
        truths, nothing = [*known], FOREIGN
        labels = labels if any(found is None for _, found in counts) else truths
    rows = []
    for truth in truths:
        line = [counts.get((truth, found), 0) for found in labels]
        total = sum(line) or 1
        rows.append(
            (
                truth or NOTHING,
                tuple(
                    Cell(count, count / total, truth == found and truth is not None)
                    for count, found in zip(line, labels, strict=True)
                ),
            )
        )
    return ConfusionTable(tuple(name or nothing for name in labels), tuple(rows), ())


def _cells(row: Row) -> Sequence[Confusion]:
    if row.confusion is not None:
        return row.confusion
    return row.operating.confusion if row.operating is not None else ()
