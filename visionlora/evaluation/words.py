"""Numbers of a report in words, the same on every page."""

from __future__ import annotations

from collections.abc import Sequence

from visionlora.evaluation.bootstrap import Change, Interval

NO_SCORE = "-"
"""Stands where there is nothing to score: a class that the model does not know or that has no objects."""
NO_DIFFERENCE = "no measurable difference"


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


def list_words(names: Sequence[str], most: int = 5) -> str:
    """Return names with commas, the first few of many.

    Example:
        >>> list_words(["scratch", "pit"]), list_words(["scratch", "pit", "stain"], most=1), list_words([])
        ('scratch, pit', 'scratch and 2 more', 'none')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


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
