"""Names that a plotting library could take for mathematics, or for nothing."""

from __future__ import annotations

from dataclasses import replace

from visionlora.reporting.chart import write_chart


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(report, tmp_path) -> None:
    rows = tuple(replace(row, label=label) for row, label in zip(report.rows, (r"a$\foo$", "_hidden"), strict=False))
    classes = (replace(report.data.classes[0], name=r"b$\bar$"), *report.data.classes[1:])
    write_chart(replace(report, rows=rows, data=replace(report.data, classes=classes)), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
