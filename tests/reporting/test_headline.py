"""The headline is one line however much is wrong, and the reasons are a list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from visionlora.reporting.page.headline import headline, reasons
from visionlora.reporting.page.page import milliseconds
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.budget import Budget


def _judged(report, budget: Budget):
    return replace(report, verdict=judge_budget(report, budget))


def test_missed_limits_are_a_list_with_what_cannot_be_judged_first(report) -> None:
    missed = _judged(report, Budget(max_drop=0.01, max_class_drop=0.01, min_map50=0.99))

    assert headline(missed) == "All 2 models miss the budget"
    assert reasons(missed)[:2] == [
        "`stranger` cannot be judged: it knows 0 of 4 classes",
        "`int8` has mAP50 0.718, at least 0.99 is asked for",
    ]
    assert reasons(missed)[2].startswith("`int8` loses 0.0") and len(set(reasons(missed))) == len(reasons(missed)) == 4


def test_kept_limits_name_what_comes_nearest(report) -> None:
    kept = _judged(replace(report, rows=report.rows[:3]), Budget(max_drop=0.5, min_map50=0.1))

    assert headline(kept) == "`int8` keeps the budget"
    assert reasons(kept) == [
        "largest loss of mAP50-95 0.014 (`int8`), 0.5 is allowed",
        "lowest mAP50 0.718 (`int8`), at least 0.1 is asked for",
    ]


def test_headline_of_a_long_name_leaves_its_middle_out(report) -> None:
    rows = (*report.rows[:2], replace(report.rows[2], label="x" * 50 + "`" + "y" * 50))

    line = headline(replace(report, rows=rows))

    assert len(line) < 80 and line.count("`") == 2 and "…" in line
    assert reasons(replace(report, rows=rows)) == [
        "against `merged` -0.014 (95% interval -0.034 to +0.006): no measurable difference"
    ]


def test_time_has_its_spread_and_mark_where_they_were_measured(report) -> None:
    @dataclass(frozen=True)
    class Timing:
        low: float
        high: float
        noisy: bool

    @dataclass(frozen=True)
    class Timed:
        ms_per_image: float
        timing: Timing | None

    assert milliseconds(report.rows[0]) == ("21.9", "", False)
    assert milliseconds(Timed(14.44, Timing(13.9, 15.81, True))) == ("14.4", "13.9 to 15.8", True)
