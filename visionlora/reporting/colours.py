"""The colours of the models: the same in the page's charts and in the pictures, on white and on black."""

from __future__ import annotations

import colorsys

_CHOSEN = (
    ("#6b7684", "#97a3b1"),  # grey: the first is most often the base
    ("#2563c9", "#6aa5ff"),  # blue
    ("#c96a08", "#f5a142"),  # orange
    ("#0c8a7c", "#3fd0bd"),  # teal
    ("#8a3fc4", "#c791f7"),  # purple
    ("#d0246f", "#ff7fb8"),  # pink
    ("#5c8a12", "#a4d64c"),  # leaf green
    ("#7a3b12", "#c98a5b"),  # brown
    ("#16246e", "#6f5cff"),  # indigo
    ("#a58a00", "#f2e05a"),  # gold
    ("#d8342b", "#ff6b5e"),  # red
    ("#0b93c4", "#4fd3ff"),  # sky
)
_GOLDEN = 0.618034
DASHES = ("", "8 4", "3 3", "9 3 2 3", "1 3", "12 3")
"""Of the lines of the models, so that they can be told apart without colours; empty is a whole line."""


def model_colours(index: int) -> tuple[str, str]:
    """Return a model's colour on white and on black, as #rrggbb; no two models of a report have the same.

    Args:
        index: of the model in the report.

    Example:
        >>> model_colours(1)
        ('#2563c9', '#6aa5ff')
    """
    if index < len(_CHOSEN):
        return _CHOSEN[index]
    hue = 0.07 + _GOLDEN * index  # neighbours are far apart, and no hue comes twice
    return _hex(hue % 1.0, 0.26 + 0.06 * (index % 2)), _hex(hue % 1.0, 0.66 + 0.08 * (index % 2))


def model_dash(index: int) -> str:
    """Return the dashes of a model's line, as SVG writes them."""
    return DASHES[index % len(DASHES)]


def _hex(hue: float, lightness: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, 0.7))
