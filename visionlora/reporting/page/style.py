"""What of the style sheet depends on the report: a colour a model, and the lines above and below a printed page."""

from __future__ import annotations

import re

from markupsafe import Markup

from visionlora.reporting.colours import model_colours, model_dash

_LONGEST = 90  # characters of the line above a printed page


def model_style(count: int) -> Markup:
    """Return the rules of the classes `m0`, `m1`...: a model's colour `--c`, its dashes, and `hide-m0`... that hide it.

    Args:
        count: models of the report.
    """
    light, dark = (
        " ".join(f"--m{index}: {model_colours(index)[black]};" for index in range(count)) for black in (0, 1)
    )
    rules = [
        f":root {{ {light} }}",
        f'@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}',
        f'@media screen {{ :root[data-theme="dark"] {{ {dark} }} }}',
    ]
    for index in range(count):
        rules.append(f".m{index} {{ --c: var(--m{index}); }} .hide-m{index} .chart .m{index} {{ display: none; }}")
        if model_dash(index):
            rules.append(f".m{index} .curve {{ stroke-dasharray: {model_dash(index)}; }}")
    return Markup("\n".join(rules))


def paper_style(title: str, date: str) -> Markup:
    """Return the rules of a printed page's margins: title and date above, its number below."""
    margins = {
        "top-left": css_string(title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…"),
        "top-right": css_string(date),
        "bottom-left": css_string("visionlora evaluation"),
        "bottom-right": f"counter(page) {css_string(' of ')} counter(pages)",
    }
    rules = " ".join(f"@{place} {{ content: {text}; }}" for place, text in margins.items())
    return Markup(f"@page {{ {rules} }}")


def css_string(text: str) -> str:
    r"""Return text as a CSS string in which nothing but letters, digits and spaces stands for itself.

    Example:
        >>> css_string('a"</style>')
        '"a\\22 \\3c \\2f style\\3e "'
    """
    return '"' + re.sub(r"[^A-Za-z0-9 ]", lambda found: f"\\{ord(found.group()):x} ", text) + '"'
