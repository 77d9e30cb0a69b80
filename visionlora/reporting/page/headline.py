"""What stands first on the page: a headline of one line, and the reasons under it."""

from __future__ import annotations

from collections.abc import Sequence

from visionlora.formats.text import class_words
from visionlora.reporting.formatting import beside, change_words, fraction
from visionlora.reporting.report import Report
from visionlora.reporting.verdict import score_of
from visionlora.scoring import BUDGET_LIMITS, Check, Verdict, option_of

SHOWN = 6
"""Reasons at the top; all limits stand in a table below."""
_LONGEST = 32  # characters of a model's name in the headline


def headline(report: Report) -> str:
    """Return the line that stands first: whether the budget is kept, or what the last model reaches."""
    if report.verdict is not None and report.verdict.checks:
        return _judged(report.verdict)
    last = report.rows[-1]
    if last.scores is None:
        return f"{_name(last.label)} knows none of the {class_words(len(report.data.names))}"
    if last.scores.map50_95 is None:
        return f"There is no object that {_name(last.label)} could find"
    known = class_words(len(last.classes))
    score = f"{report.measured.words[0]}{report.measured.of} {fraction(last.scores.map50_95)}"
    return f"{_name(last.label)} has {score} on {known}"


def reasons(report: Report) -> list[str]:
    """Return what the headline rests on, a line each: the missed limits, the worst first, or what came nearest."""
    if report.verdict is not None and report.verdict.checks:
        failed = [check for check in report.verdict.checks if not check.passed]
        if failed:
            # What cannot be judged at all comes first, then what is farthest from its limit.
            ordered = sorted(failed, key=lambda check: (check.measured is not None, -_excess(check)))
            return list(dict.fromkeys(_failure(check, report) for check in ordered))
        return [
            _nearest(report.verdict.checks, limit, report)
            for limit in BUDGET_LIMITS
            if _of(report.verdict.checks, limit)
        ]
    last, reference = report.rows[-1], report.reference
    difference = None if reference is None else last.difference_to(reference.label)
    if difference is None or reference is None:
        return []
    words = change_words(difference.map50_95)
    name = _name(reference.label, whole=True)
    return [f"the same as {name}" if words == "the same" else f"against {name} {words}"]


def _judged(verdict: Verdict) -> str:
    models = list(dict.fromkeys(check.model for check in verdict.checks))
    failed = list(dict.fromkeys(check.model for check in verdict.checks if not check.passed))
    if len(failed) > 1:
        count = f"All {len(models)}" if failed == models else f"{len(failed)} of {len(models)}"
        return f"{count} models miss the budget"
    if failed:
        of = "" if len(models) == 1 else f", 1 of {len(models)} models,"
        return f"{_name(failed[0])}{of} misses the budget"
    return f"{_name(models[0])} keeps the budget" if len(models) == 1 else f"All {len(models)} models keep the budget"


def _failure(check: Check, report: Report) -> str:
    name = _name(check.model, whole=True)
    if check.measured is None:
        row = next(row for row in report.rows if row.label == check.model)
        if row not in report.complete_rows:
            return f"{name} cannot be judged: it knows {len(row.classes)} of {class_words(len(report.data.names))}"
        return f"{name} cannot be held to {option_of(check.limit)}: there is nothing to measure it by"
    if check.limit == "min_map50":
        return f"{name} has mAP50 {beside(check.measured, check.allowed)}, at least {check.allowed:g} is asked for"
    return (
        f"{name} loses {beside(check.measured, check.allowed)} of {_what(check, report)}, {check.allowed:g} is allowed"
    )


def _nearest(checks: Sequence[Check], limit: str, report: Report) -> str:
    """Return what came nearest to a limit that all keep."""
    worst = max(_of(checks, limit), key=_excess)
    measured, name = worst.measured or 0.0, _name(worst.model, whole=True)
    if limit == "min_map50":
        return f"lowest mAP50 {measured:.3f} ({name}), at least {worst.allowed:g} is asked for"
    return f"largest loss of {_what(worst, report)} {max(measured, 0.0):.3f} ({name}), {worst.allowed:g} is allowed"


def _of(checks: Sequence[Check], limit: str) -> list[Check]:
    return [check for check in checks if check.limit == limit and check.measured is not None]


def _excess(check: Check) -> float:
    """Return how far a model is beyond its limit, as a fraction of 1; below zero where it keeps it."""
    measured = check.measured or 0.0
    return check.allowed - measured if check.limit == "min_map50" else measured - check.allowed


def _what(check: Check, report: Report) -> str:
    score = score_of(check.limit, report)
    return f"{score} of {_name(check.class_name, whole=True)}" if check.class_name else score


def _name(text: str, *, whole: bool = False) -> str:
    """Return a name as code; of a long one the middle is left out where it must fit into a line."""
    text = text.replace("`", "'")
    if not whole and len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
    return f"`{text}`"
