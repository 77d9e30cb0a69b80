"""Which models pass, which fail, and what the sentence says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from visionlora.errors import UsageError
from visionlora.reporting.page.headline import reasons
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.budget import Budget, check_budget


@pytest.fixture
def two(report):
    """The report of the reference `merged` and of `int8`, which loses 0.0137, and 0.0205 of crack."""
    return replace(report, rows=report.rows[:3])


@pytest.mark.parametrize(
    ("budget", "passed"),
    [
        (Budget(max_drop=0.0138), True),
        (Budget(max_drop=0.0136), False),
        (Budget(max_class_drop=0.0206), True),
        (Budget(max_class_drop=0.0204), False),
        (Budget(min_map50=0.71), True),
        (Budget(min_map50=0.72), False),
        (Budget(max_drop=0.5, max_class_drop=0.01), False),
        (Budget(max_drop=0.0), False),
    ],
    ids=str,
)
def test_limits_are_held_to_the_models_after_the_reference(two, budget, passed) -> None:
    verdict = judge_budget(two, budget)

    assert verdict.passed is passed
    assert {check.model for check in verdict.checks} == {"int8"}
    assert verdict.sentence.startswith("Passed: " if passed else "Not passed: ")


def test_sentence_names_what_was_missed_and_by_how_much(two) -> None:
    verdict = judge_budget(two, Budget(max_drop=0.01, max_class_drop=0.02, min_map50=0.9))

    assert verdict.sentence == (
        "Not passed: `int8` loses 0.014 of mAP50-95, 0.01 is allowed; `int8` loses 0.021 of AP50-95 of crack, "
        "0.02 is allowed; `int8` has mAP50 0.718, at least 0.9 is asked for."
    )


def test_sentence_of_a_pass_says_how_near_it_was(two) -> None:
    assert judge_budget(two, Budget(max_drop=0.02)).sentence == (
        "Passed: `int8` keeps within the budget (largest loss of mAP50-95 0.014, 0.02 allowed)."
    )


@pytest.mark.parametrize(
    ("budget", "ends"),
    [
        (Budget(max_drop=0.0001), "loses 0.014 of mAP50-95, 0.0001 is allowed."),
        (Budget(max_drop=0.01365), "loses 0.01370 of mAP50-95, 0.01365 is allowed."),
        (Budget(min_map50=0.7184), "has mAP50 0.71752, at least 0.7184 is asked for."),
    ],
    ids=str,
)
def test_a_limit_stands_as_it_was_asked_and_a_miss_is_seen(two, budget, ends) -> None:
    assert judge_budget(two, budget).sentence.endswith(ends)
    (said,) = reasons(replace(two, verdict=judge_budget(two, budget)))
    assert said.endswith(ends.rstrip("."))


def test_model_that_knows_too_few_classes_fails(report) -> None:
    verdict = judge_budget(report, Budget(max_drop=0.5))

    assert not verdict.passed and "`stranger` knows 0 of 4 classes" in verdict.sentence


def test_losses_may_count_from_another_model_than_the_reference(two) -> None:
    base, merged, int8 = two.rows
    worst = replace(int8, label="worst", differences=())
    staged = replace(two, rows=(base, worst, merged, int8))
    assert staged.reference is worst

    verdict = judge_budget(staged, Budget(max_drop=0.01), merged.label)

    assert verdict.sentence == "Not passed: `int8` loses 0.014 of mAP50-95, 0.01 is allowed."
    assert judge_budget(staged, Budget(max_drop=0.02), merged.label).passed
    assert "nothing to lose against" in judge_budget(staged, Budget(max_drop=0.02), int8.label).sentence


def test_lone_model_is_held_to_the_lowest_score_only(report) -> None:
    alone = replace(report, rows=report.rows[1:2])

    assert judge_budget(alone, Budget(min_map50=0.7)).passed
    assert not judge_budget(alone, Budget(min_map50=0.8)).passed

    mixed = judge_budget(alone, Budget(max_drop=0.5, min_map50=0.7))  # a limit that cannot be held is no silent pass

    assert not mixed.passed
    assert mixed.sentence == (
        "Not passed: `merged` has nothing to lose against (--max-drop); give the model before it first."
    )


def test_no_limit_is_no_verdict(report) -> None:
    assert judge_budget(report, Budget()) is None
    assert report.passed


def test_limits_outside_the_scale_are_refused_together() -> None:
    with pytest.raises(UsageError, match=r"--max-drop: .* got 2; --min-map50: .* got -1"):
        check_budget(Budget(max_drop=2, min_map50=-1))
