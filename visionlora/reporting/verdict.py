"""Whether the models keep within a budget of accuracy, in a sentence for people and a yes or no for machines."""

from __future__ import annotations

from visionlora.formats.text import class_words
from visionlora.reporting.formatting import beside, code, name_words
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row
from visionlora.scoring import BUDGET_LIMITS, Budget, Check, Verdict, option_of


def judge_budget(report: Report, budget: Budget, against: str | None = None) -> Verdict | None:
    """Hold the budget to every model after the reference; to the reference itself where it is the last.

    Scores are compared unrounded, and as measured: an interval says how sure they are, not whether they pass.

    Args:
        report: the models with their differences to each other.
        budget: the limits.
        against: label of the model that takes the reference's place; None is the reference.

    Returns:
        The verdict; None if the budget has no limit.
    """
    limits = [name for name in BUDGET_LIMITS if getattr(budget, name) is not None]
    if not limits:
        return None
    origin = report.reference if against is None else next(row for row in report.rows if row.label == against)
    checks = tuple(_check(row, origin, report, budget, limit) for row in _judged(report, origin) for limit in limits)
    return Verdict(budget, all(check.passed for check in checks), _sentence(checks, origin, report), checks)


def score_of(limit: str, report: Report) -> str:
    """Return what the score that a limit is of is called in a report."""
    mean, other, of_class = report.measured.words
    return {"max_drop": mean, "max_class_drop": of_class, "min_map50": other}[limit]


def _judged(report: Report, origin: Row | None) -> tuple[Row, ...]:
    if origin is None:
        return report.rows
    after = report.rows[report.rows.index(origin) + 1 :]
    return after or (origin,)


def _check(row: Row, origin: Row | None, report: Report, budget: Budget, limit: str) -> Check:
    """Hold one limit to one model; what cannot be judged does not pass."""
    allowed = getattr(budget, limit)
    if row not in report.complete_rows or row.scores is None or origin is None:
        return Check(row.label, limit, allowed, None, False)
    if limit == "min_map50":
        score = row.scores.map50
        return Check(row.label, limit, allowed, score, score is not None and score >= allowed)
    difference = row.difference_to(origin.label)
    if difference is None:  # no object, or the model is the origin itself
        return Check(row.label, limit, allowed, None, False)
    if limit == "max_drop":
        drop = -difference.map50_95.difference
        return Check(row.label, limit, allowed, drop, drop <= allowed)
    worst = min(difference.per_class, key=lambda change: change.change.difference)
    drop = -worst.change.difference
    return Check(row.label, limit, allowed, drop, drop <= allowed, worst.name)


def _sentence(checks: tuple[Check, ...], origin: Row | None, report: Report) -> str:
    """Say in one sentence what passes or fails, the worst first."""
    failed = [check for check in checks if not check.passed]
    if failed:
        return f"Not passed: {'; '.join(_failure(check, origin, report) for check in failed)}."
    labels = list(dict.fromkeys(check.model for check in checks))
    after = "the reference" if origin is None or origin is report.reference else code(origin.label)
    who = f"{code(labels[0])} keeps" if len(labels) == 1 else f"all {len(labels)} models after {after} keep"
    return f"Passed: {who} within the budget ({'; '.join(_tightest(checks, report))})."


def _failure(check: Check, origin: Row | None, report: Report) -> str:
    model = code(check.model)
    if check.measured is None:
        row = next(row for row in report.rows if row.label == check.model)
        if set(report.data.judged) <= set(row.classes):
            if check.limit != "min_map50" and (row is origin or origin not in report.complete_rows):
                return f"{model} has nothing to lose against ({option_of(check.limit)}); give the model before it first"
            return f"{model} has no object to be judged by"
        return f"{model} knows {len(row.classes)} of {class_words(len(report.data.names))}"
    score = score_of(check.limit, report)
    if check.limit == "min_map50":
        return f"{model} has {score} {beside(check.measured, check.allowed)}, at least {check.allowed:g} is asked for"
    what = f"{score} of {name_words(check.class_name)}" if check.class_name else score
    return f"{model} loses {beside(check.measured, check.allowed)} of {what}, {check.allowed:g} is allowed"


def _tightest(checks: tuple[Check, ...], report: Report) -> list[str]:
    """Return what comes nearest to each limit."""
    parts = []
    for limit in BUDGET_LIMITS:
        score = score_of(limit, report)
        held = [check for check in checks if check.limit == limit and check.measured is not None]
        if not held:
            continue
        if limit == "min_map50":
            worst = min(held, key=lambda check: check.measured or 0.0)
            parts.append(f"lowest {score} {worst.measured:.3f}, at least {worst.allowed:g} asked for")
            continue
        worst = max(held, key=lambda check: check.measured or 0.0)
        what = f"{score} of a class" if limit == "max_class_drop" else score
        parts.append(f"largest loss of {what} {max(worst.measured or 0.0, 0.0):.3f}, {worst.allowed:g} allowed")
    return parts
