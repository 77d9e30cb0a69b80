"""What an int8 file lost against the float one, which layers are finer for it, and how that was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from visionlora.reporting import change_words
from visionlora.scoring import Budget, ClassChange, DataUsed, Difference, Refit

FORMAT = 1
KIND = "quantization"
_NAMED, _NAMED_SHARE = 3, 0.01
FEW_OBJECTS = 30
"""A class with fewer labelled objects is named: one of them more or less found moves its score by points."""


@dataclass(frozen=True)
class GroupCost:
    """A group of layers, what int8 costs there in accuracy, and what float would cost in time.

    Attributes:
        name: what the names of its layers have in common.
        layers: their names.
        error_share: of the error at the outputs that all groups make, each alone in int8; over the classes that lost
            too much.
        multiply_adds_share: of those of all groups.
        float: whether it was left float.
        int8_weights: whether its weights were left int8 in a file of int4 weights.
    """

    name: str
    layers: tuple[str, ...]
    error_share: float
    multiply_adds_share: float
    float: bool
    int8_weights: bool = False


@dataclass(frozen=True)
class Trial:
    """One choice of groups with finer numbers, judged.

    Attributes:
        float_groups: names of those that are float.
        drop: of mAP50-95, as a fraction of 1; negative for a gain.
        worst_class: the class that lost most.
        worst_drop: of its AP50-95.
        passed: whether it keeps within the budget.
        int8_groups: names of those that have int8 weights in a file of int4 weights.
    """

    float_groups: tuple[str, ...]
    drop: float
    worst_class: str
    worst_drop: float
    passed: bool
    int8_groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantizationReport:
    """The int8 file against the float one on labelled images.

    Attributes:
        data: the images that both were judged on.
        budget: what was allowed; None where only thresholds were asked for.
        passed: whether the file keeps within it; true where there is none.
        sentence: the same for people.
        warnings: what a reader must know before trusting the numbers, a sentence each.
        difference: int8 minus float, with 95 % intervals by a paired bootstrap over the images.
        groups: measured only where finer layers were needed; in the order of the graph.
        trials: in the order in which they were made.
        thresholds: None where they were not asked for.
        seconds: how long judging and searching took.
    """

    data: DataUsed
    budget: Budget | None
    passed: bool
    sentence: str
    warnings: tuple[str, ...]
    difference: Difference
    groups: tuple[GroupCost, ...]
    trials: tuple[Trial, ...]
    thresholds: Refit | None
    seconds: float
    kind: str = KIND
    format: int = FORMAT

    @property
    def float_groups(self) -> tuple[GroupCost, ...]:
        """The groups that were left float."""
        return tuple(group for group in self.groups if group.float)

    def thresholds_for(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """Return a threshold for each class of the file; one that was not judged has the float model's."""
        if self.thresholds is None:
            return None
        fitted = dict(zip(self.thresholds.names, self.thresholds.thresholds, strict=True))
        return tuple(fitted.get(name, self.thresholds.confidence) for name in names)

    def to_json(self) -> str:
        """Return the report as indented JSON; fractions are unrounded."""
        fields = TypeAdapter(QuantizationReport).dump_python(self, mode="json")
        return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def lines(self) -> tuple[str, ...]:
        """Return what a person wants to know, a sentence a line."""
        fitted = () if self.thresholds is None else (_threshold_sentence(self.thresholds),)
        return (self.sentence, *self.warnings, *fitted)

    def for_card(self) -> dict[str, Any]:
        """Return the few fields that the int8 file itself carries."""
        limits = {} if self.budget is None else {
            name: limit for name, limit in dataclasses.asdict(self.budget).items() if limit is not None
        }  # fmt: skip
        chosen = self.difference
        worst = worst_class(chosen)
        interval = chosen.map50_95.interval
        return {
            "budget": limits,
            "within_budget": self.passed,
            "judged_on": self.data.content_hash,
            "drop": round(-chosen.map50_95.difference, 6),
            "drop_interval": None if interval is None else [round(-interval.high, 6), round(-interval.low, 6)],
            "worst_class": worst.name,
            "worst_drop": round(-worst.change.difference, 6),
            "float_groups": [group.name for group in self.float_groups],
            "int8_groups": [group.name for group in self.groups if group.int8_weights],
        }


def worst_class(difference: Difference) -> ClassChange:
    """Return the class that lost most."""
    return min(difference.per_class, key=lambda change: change.change.difference)


def exceeding(difference: Difference, budget: Budget) -> tuple[str, ...]:
    """Return the classes that lost more than the budget allows a class to."""
    limit = budget.max_class_drop
    return tuple(
        change.name for change in difference.per_class if limit is not None and -change.change.difference > limit
    )


def verdict_sentence(
    difference: Difference,
    budget: Budget | None,
    groups: Sequence[GroupCost],
    *,
    weights: str = "int8",
    score: str = "mAP50-95",
) -> str:
    """Say in one sentence what was lost, what was allowed, what is float for it, and what stands in the way.

    Args:
        difference: int8 minus float.
        budget: what was allowed.
        groups: all groups where they were measured.
        weights: what the file keeps weights in, `int8` or `int4`.
        score: what the first score of the task is called.
    """
    worst = worst_class(difference)
    limits = budget or Budget()
    too_low = exceeding(difference, limits)
    parts = [
        f"{score} {change_words(difference.map50_95)}{_allowed(limits.max_drop)}",
        f"worst class {worst.name} {change_words(worst.change)}{_allowed(limits.max_class_drop)}",
    ]
    if len(too_low) > 1:
        parts.append(f"above the limit: {', '.join(too_low)}")
    parts.append(f"float: {', '.join(group.name for group in groups if group.float) or 'no group of layers'}")
    int8 = [group.name for group in groups if group.int8_weights]
    if int8:
        parts.append(f"int8 instead of int4 weights: {', '.join(int8)}")
    if too_low or (limits.max_drop is not None and -difference.map50_95.difference > limits.max_drop):
        left = sorted((group for group in groups if not group.float), key=lambda group: -group.error_share)
        named = [
            f"{group.name} ({group.error_share:.0%})" for group in left[:_NAMED] if group.error_share >= _NAMED_SHARE
        ]
        most = f"most error comes from {', '.join(named)} (share of all error)" if named else "no group has much error"
        parts.append(f"of the other groups {most}; finer numbers there would make the file too large")
    return f"{weights} against float: {'; '.join(parts)}"


def _allowed(limit: float | None) -> str:
    return "" if limit is None else f", a loss of {limit:g} allowed"


def _threshold_sentence(refit: Refit) -> str:
    same, fitted, reference = refit.unfitted, refit.fitted, refit.reference
    lost = f"; not to be kept: {', '.join(refit.unreachable)}" if refit.unreachable else ""
    return (
        f"thresholds that keep {refit.keep}: {fitted.misses} objects missed and {fitted.false_alarms} false alarms "
        f"(counted on images that took no part in the fit), instead of {same.misses} and {same.false_alarms} at "
        f"{refit.confidence:g}; float {reference.misses} and {reference.false_alarms}{lost}"
    )


def is_report(path: Path) -> bool:
    """Whether a file is a report that `QuantizationReport.to_json` wrote."""
    try:
        TypeAdapter(QuantizationReport).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True
