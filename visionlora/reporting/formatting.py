"""Numbers of a report in words, the same on every page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from visionlora.formats.text import printable
from visionlora.reporting.row import Row
from visionlora.scoring import Change, Interval, OperatingPoint

NO_SCORE = "-"
"""Stands where there is nothing to score: a class that the model does not know or that has no objects."""
NO_DIFFERENCE = "no measurable difference"
FEWEST_OBJECTS = 10
"""Objects of one size below which a score of them is not shown."""
_PLAIN_NAME = re.compile(r"\w(?:[\w .,:/()+-]*[\w)])?")


def code(text: object) -> str:
    """Return text of a file or a user between backticks, where nothing in it is markup or steers a terminal.

    Example:
        >>> code("a<b>"), code("`a`"), code("a" + chr(10) + "b") == "`a" + chr(92) + "nb`"
        ('`a<b>`', "`'a'`", True)
    """
    return f"`{printable(text).replace('`', chr(39)) or ' '}`"


def name_words(name: object) -> str:
    """Return a name or a path as it stands in a sentence: as `code` where it holds more than words.

    Example:
        >>> name_words("rolled-in scale"), name_words("<b>zebra</b>")
        ('rolled-in scale', '`<b>zebra</b>`')
    """
    text = str(name)
    plain = _PLAIN_NAME.fullmatch(text) and not text.startswith("_") and not text.endswith("_")
    return text if plain and "__" not in text and "://" not in text else code(text)


def fraction(value: float | None) -> str:
    """Return a fraction with three decimals, as in every table of the report.

    Example:
        >>> fraction(0.40812), fraction(None)
        ('0.408', '-')
    """
    return NO_SCORE if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign; one that rounds to nothing has none.

    Example:
        >>> signed(0.0123), signed(-0.0123), signed(-0.0001)
        ('+0.012', '-0.012', '0.000')
    """
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def interval_words(interval: Interval | None) -> str:
    """Return an interval as numbers with signs.

    Example:
        >>> interval_words(Interval(-0.0123, 0.0047))
        '-0.012 to +0.005'
    """
    return NO_SCORE if interval is None else f"{signed(interval.low)} to {signed(interval.high)}"


def change_words(change: Change) -> str:
    """Return a difference as a phrase: how much, how sure, and plainly where it cannot be told from nothing.

    Example:
        >>> change_words(Change(-0.0071, Interval(-0.0161, 0.0021)))
        '-0.007 (95% interval -0.016 to +0.002): no measurable difference'
        >>> change_words(Change(0.0, Interval(0.0, 0.0)))
        'the same'
    """
    interval = change.interval
    if change.difference == 0 and interval in (None, Interval(0.0, 0.0)):
        return "the same"
    if interval is None:
        return f"{signed(change.difference)} (too few images for an interval)"
    sure = "" if change.measurable else f": {NO_DIFFERENCE}"
    return f"{signed(change.difference)} (95% interval {interval_words(interval)}){sure}"


def beside(measured: float, allowed: float) -> str:
    """Return what was measured, with so many digits that it is seen to be another number than the limit beside it."""
    return f"{measured:.{3 if round(measured, 3) != round(allowed, 3) else 5}f}"


def list_words(names: Sequence[str], most: int = 5) -> str:
    """Return names with commas, the first few of many.

    Example:
        >>> list_words(["scratch", "pit"]), list_words(["scratch", "pit", "stain"], most=1), list_words([])
        ('scratch, pit', 'scratch and 2 more', 'none')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(map(name_words, names[:most])) or "none") + more


def join_words(parts: Sequence[str]) -> str:
    """Return parts of a sentence as a list of it.

    Example:
        >>> join_words(["a", "b", "c"]), join_words(["a"])
        ('a, b and c', 'a')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def misses_words(point: OperatingPoint) -> str:
    """Return how many objects are missed, of how many."""
    share = f" ({point.misses / point.objects:.0%})" if point.objects else ""
    return f"{point.misses} of {point.objects}{share}"


def alarms_words(point: OperatingPoint) -> str:
    """Return how many false alarms there are, and in how many images."""
    if not point.false_alarms:
        return "0"
    return f"{point.false_alarms} in {point.images_with_false_alarms} image{'s' * (point.images_with_false_alarms > 1)}"


def size_words(score: float | None, objects: int | None) -> str:
    """Return the score of objects of one size; of few objects their count alone, as chance makes such a score.

    Example:
        >>> size_words(0.412, 57), size_words(0.0, 1), size_words(None, 0), size_words(0.412, None)
        ('0.412', '- (1 object)', '-', '0.412')
    """
    if score is None or objects is None or objects >= FEWEST_OBJECTS:
        return fraction(score)
    return f"{NO_SCORE} ({objects} object{'s' * (objects > 1)})"


def time_words(row: Row) -> str:
    """Return the milliseconds for a picture with the range of most calls, after a tilde where noise disturbed them."""
    timing = row.timing
    if timing is None:  # a report of an earlier version
        return f"{row.ms_per_image:.1f}"
    return f"{'~' * timing.noisy}{timing.median:.1f} ({timing.low:.1f}-{timing.high:.1f})"


def speed_words(row: Row) -> str:
    """Return how a model's time compares with the reference's, as far as it was measured; empty where it was not."""
    ratio = None if row.timing is None else row.timing.ratio
    if ratio is None:
        return ""
    if not ratio.measurable:
        return f"no measurable difference to {code(ratio.to)}"
    return f"{ratio.median:.2f} of {code(ratio.to)} ({ratio.low:.2f} to {ratio.high:.2f})"


def megabytes(size: int) -> str:
    """Return bytes in MB (10^6 bytes).

    Example:
        >>> megabytes(2_880_000)
        '2.88'
    """
    return f"{size / 1e6:.2f}"


def count_words(count: int | None) -> str:
    """Return a large count in short form.

    Example:
        >>> count_words(2_590_123), count_words(5_120), count_words(12), count_words(None)
        ('2.59 M', '5.1 k', '12', '-')
    """
    if count is None:
        return NO_SCORE
    if count >= 1e6:
        return f"{count / 1e6:.2f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, numbers to the right, columns padded for reading.

    Text of files in a cell must have gone through `code` or `name_words`.
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    numeric = [_is_numeric([row[column] for row in rows]) for column in range(len(header))]
    lines = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        for row in cells
    ]
    rule = [f"{'-' * (width - 1)}:" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _is_numeric(column: Sequence[str]) -> bool:
    digits = [cell.replace("/", "").replace(".", "") for cell in column if cell != NO_SCORE]
    return bool(digits) and all(cell.isdigit() for cell in digits)
