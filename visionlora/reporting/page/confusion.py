"""Confusion matrices as tables, whose cells are the darker the larger their share of the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visionlora.reporting.row import Row

WIDEST = 12
"""Classes of the largest matrix that is drawn; of more, the most frequent confusions are listed."""
LISTED = 20
MISSED, NOTHING = "missed", "nothing there"


@dataclass(frozen=True)
class Cell:
    """A count, its share of the row in [0, 1], and whether it is a right one."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class ConfusionTable:
    """Rows are objects (the last: false alarms on nothing), columns detections (the last: misses).

    `frequent` lists truth, detection and count of the most frequent confusions instead, where there are many classes.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    frequent: tuple[tuple[str, str, int], ...]


def confusion_tables(row: Row, names: Sequence[str]) -> ConfusionTable:
    """Return a model's confusion matrix, on the classes that it knows."""
    cells = row.operating.confusion if row.operating is not None else ()
    wrong = [cell for cell in cells if cell.truth != cell.found]
    if len(row.classes) > WIDEST:
        wrong.sort(key=lambda cell: -cell.count)
        frequent = [(cell.truth or NOTHING, cell.found or MISSED, cell.count) for cell in wrong[:LISTED]]
        return ConfusionTable((), (), tuple(frequent))
    counts = {(cell.truth, cell.found): cell.count for cell in cells}
    labels: list[str | None] = [*(name for name in names if name in row.classes), None]
    rows = []
    for truth in labels:
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
    return ConfusionTable(tuple(name or MISSED for name in labels), tuple(rows), ())
