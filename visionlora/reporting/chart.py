"""The numbers of a report as bars."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from visionlora.formats.text import printable
from visionlora.isolation import matplotlib_folder
from visionlora.reporting.colours import model_colours
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row

_CHARTED_CLASSES = 20  # more are no longer a picture
_BAR_INCHES = 0.13
_LONGEST = 40  # characters of a name; of a longer one the middle is left out


def write_chart(report: Report, path: Path | str) -> None:
    """Draw the mean score of each model, and that of each class beside it, into a PNG file."""
    os.environ.setdefault("MPLCONFIGDIR", matplotlib_folder())
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, count = _charted_classes(report), len(report.rows)
    height = max(2.4, 1.0 + 0.45 * count, 1.2 + len(names) * (_BAR_INCHES * count + 0.12))
    figure = Figure(figsize=(11, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen, and leaves pyplot's backend alone
    means, classes = figure.subplots(1, 2, width_ratios=(2, 3))
    for axes in (means, classes):
        _dress(axes)
    _draw_means(means, report)
    _draw_classes(classes, report, names)
    if count > 1:
        labels = [_short(row.label).replace("$", r"\$") for row in report.rows]  # no mathematics
        columns = max(1, min(count, 150 // max(map(len, labels))))
        figure.legend(list(classes.containers), labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, format="png")


def _charted_classes(report: Report) -> tuple[str, ...]:
    """Return the classes that have objects, or the most frequent of many, in the data set's order."""
    present = [count for count in report.data.classes if count.objects]
    frequent = sorted(present, key=lambda count: -count.objects)[:_CHARTED_CLASSES]
    return tuple(count.name for count in present if count in frequent)


def _dress(axes: Any) -> None:
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_means(axes: Any, report: Report) -> None:
    for position, row in enumerate(report.rows):
        score = row.scores.map50_95 if row.scores else None
        alpha = 1.0 if row in report.complete_rows else 0.5  # a mean over fewer classes is not comparable
        bar = axes.barh(position, score or 0, height=0.62, color=model_colours(position)[0], alpha=alpha)
        text = "no score" if score is None else f"{score:.3f}"
        axes.bar_label(bar, [text], padding=4)
    axes.set_yticks(range(len(report.rows)), [_name(row, report) for row in report.rows], parse_math=False)
    axes.set_ylim(len(report.rows) - 0.5, -0.5)
    axes.set_title(report.measured.words[0])


def _draw_classes(axes: Any, report: Report, names: tuple[str, ...]) -> None:
    thickness = 0.8 / len(report.rows)
    for index, row in enumerate(report.rows):
        scores = row.class_scores()
        offset = (index - (len(report.rows) - 1) / 2) * thickness
        places = [position + offset for position in range(len(names))]
        widths = [scores.get(name) or 0.0 for name in names]
        axes.barh(places, widths, 0.9 * thickness, color=model_colours(index)[0])
    axes.set_yticks(range(len(names)), list(map(_short, names)), parse_math=False)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    few, score = len(names) < _CHARTED_CLASSES, report.measured.words[2]
    axes.set_title(f"{score} of each class" if few else f"{score}, the {len(names)} most frequent classes")


def _name(row: Row, report: Report) -> str:
    if row in report.complete_rows:
        return _short(row.label)
    return f"{_short(row.label)}\n{len(row.classes)} of {len(report.data.names)} classes"


def _short(name: str) -> str:
    """Return a name that a font can draw and a figure has room for."""
    text = printable(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
