"""Vector graphics by hand: elements, and axes with a grid. Colours come from the page's style sheet by class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from visionlora.formats.text import printable

_NARROW, _WIDE = " ijltfrI.,:;'|!()[]`", "mwMW@%…—<>=+"
WIDTH = 380
"""Of every chart, in its own pixels: what a phone shows unscaled, so that letters stay readable."""


@dataclass(frozen=True)
class Axes:
    """Where data lie in a chart of `WIDTH` pixels.

    Attributes:
        height: of the chart in pixels.
        x_range: values at the left and the right edge of the plot.
        y_range: values at its bottom and its top.
        left, right, top, bottom: margins in pixels.
    """

    height: float
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    left: float = 40.0
    right: float = 12.0
    top: float = 10.0
    bottom: float = 36.0

    def x(self, value: float) -> float:
        """Return the pixel of a value across."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (WIDTH - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the pixel of a value upwards."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)


def element(name: str, content: object = "", **attributes: object) -> Markup:
    """Return an element; text and attributes are escaped, markup is not; `class_` and `stroke_width` lose their marks.

    Example:
        >>> element("text", "a < b", x=1.23456, class_="tick")
        Markup('<text x="1.23" class="tick">a &lt; b</text>')
    """
    written = "".join(f' {key.strip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{escape(content)}</{name}>")


def text_width(text: str, size: float) -> float:
    """Return about how many pixels a text takes at a size of letters in pixels, rather too many than too few.

    The page's letters are those of the reader's system, so nobody can measure them here.
    """
    units = 0.0
    for letter in text:
        if unicodedata.combining(letter):
            continue
        if unicodedata.east_asian_width(letter) in "WF":
            units += 1.1
        elif letter in _NARROW:
            units += 0.4
        else:
            units += 1.05 if letter in _WIDE else 0.8 if letter.isupper() else 0.7
    return units * size


def shortened(text: str, width: float, size: float) -> str:
    """Return a text that takes no more than a width in pixels; what is too much is left out of its middle.

    Marks that letters cannot show are escaped first, as on the whole page, so that their escapes are measured too.

    Example:
        >>> shortened("a name that is far too long", 100, 12)
        'a name… long'
    """
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if text_width(short, size) <= width:
            return short
    return "…"


def join(parts: Iterable[Markup]) -> Markup:
    """Return elements one after the other."""
    return Markup("").join(parts)


def chart(axes: Axes, parts: Iterable[Markup], *, label: str) -> Markup:
    """Return a whole chart that scales with its place; `label` is what a screen reader says."""
    return element(
        "svg",
        join(parts),
        viewBox=f"0 0 {WIDTH} {axes.height:g}",
        class_="chart",
        role="img",
        aria_label=label,
    )


def grid(
    axes: Axes, *, x_ticks: Sequence[float] = (), y_ticks: Sequence[float] = (), x_title: str = "", y_title: str = ""
) -> Markup:
    """Return lines and numbers at the ticks, and the titles of the axes."""
    bottom, right = axes.height - axes.bottom, WIDTH - axes.right
    parts = []
    for value in y_ticks:
        y = axes.y(value)
        parts.append(element("line", x1=axes.left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", number(value), x=axes.left - 6, y=y + 3.5, class_="tick end"))
    for value in x_ticks:
        x = axes.x(value)
        parts.append(element("line", x1=x, x2=x, y1=axes.top, y2=bottom, class_="grid"))
        parts.append(element("text", number(value), x=x, y=bottom + 15, class_="tick middle"))
    if x_title:
        parts.append(element("text", x_title, x=(axes.left + right) / 2, y=axes.height - 4, class_="axis middle"))
    if y_title:
        middle = (axes.top + bottom) / 2
        turn = f"rotate(-90 10 {middle:g})"
        parts.append(element("text", y_title, x=10, y=middle, transform=turn, class_="axis middle"))
    return join(parts)


def path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """Return a line through pixels."""
    return element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), **attributes)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values between two values, about `count` of them.

    Example:
        >>> ticks(0, 23.1)
        [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    rough = (high - low) / max(count, 1)
    if rough <= 0:
        return [low]
    power = 10.0 ** _floor_log10(rough)
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)
    first = -(-low // step)
    found = [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]
    return [round(value, 10) for value in found]


def number(value: float) -> str:
    """Return a tick's text, without needless zeros; counts drawn downwards have no sign."""
    value = abs(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _floor_log10(value: float) -> int:
    exponent = 0
    while 10.0**exponent > value:
        exponent -= 1
    while 10.0 ** (exponent + 1) <= value:
        exponent += 1
    return exponent


def _value(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(value)
