"""One palette: no two models look alike, on white or on black, in the page or in the pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from visionlora.reporting.chart import write_chart
from visionlora.reporting.colours import model_colours
from visionlora.reporting.page.style import css_string, model_style, paper_style


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def _contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG 2.2: 1 to 21."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (_rgb(one), _rgb(other))]
    low, high = sorted(float(c @ (0.2126, 0.7152, 0.0722)) for c in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("black", "card"), [(0, "#ffffff"), (1, "#1b1f24")], ids=["light", "dark"])
def test_colours_of_twelve_models_are_far_apart_and_seen(black, card) -> None:
    colours = [model_colours(index)[black] for index in range(12)]

    lab = [cv2.cvtColor(_rgb(one)[None, None], cv2.COLOR_RGB2LAB)[0, 0] for one in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2)) > 25  # 2 is the least that is noticed
    assert min(_contrast(one, card) for one in colours) > 3  # what WCAG asks of graphics
    assert len({model_colours(index)[black] for index in range(100)}) == 100


def test_page_and_pictures_have_the_same_colours(report, tmp_path) -> None:
    rows = tuple(replace(report.rows[1], label=f"m{index}") for index in range(10))
    write_chart(replace(report, rows=rows), tmp_path / "chart.png")

    drawn = {tuple(pixel) for pixel in cv2.imread(str(tmp_path / "chart.png")).reshape(-1, 3)[:, ::-1].tolist()}
    style = model_style(10)
    for index in range(10):
        colour = model_colours(index)[0]
        assert tuple((_rgb(colour) * 255).round().astype(int).tolist()) in drawn
        assert style.count(f"--m{index}: {colour};") == 1 and f".m{index} {{ --c: var(--m{index}); }}" in style


def test_lines_above_a_page_cannot_leave_their_string() -> None:
    style = paper_style('"; } </style><script>x\\', "2026-03-14")

    assert "<" not in style and style.count("{") == style.count("}") and css_string("a\\") == '"a\\5c "'
