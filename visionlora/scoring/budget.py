"""What a model may lose against another, and whether it kept to it."""

from __future__ import annotations

from dataclasses import dataclass

from visionlora.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """What a model may lose, and what it must reach; None is no limit."""

    max_drop: float | None = None
    """Highest loss of mAP50-95 against the reference, as a fraction of 1."""
    max_class_drop: float | None = None
    """Highest loss of AP50-95 of any class."""
    min_map50: float | None = None
    """Lowest mAP50."""


@dataclass(frozen=True)
class Check:
    """One limit held to one model."""

    model: str
    limit: str
    """Name of the field of the budget."""
    allowed: float
    measured: float | None
    """None where the model cannot be judged, because it does not know all the classes."""
    passed: bool
    class_name: str | None = None
    """The class that lost most, for `max_class_drop`."""


@dataclass(frozen=True)
class Verdict:
    """Whether the models keep within the budget, in a sentence and in detail."""

    budget: Budget
    passed: bool
    sentence: str
    checks: tuple[Check, ...]


BUDGET_LIMITS = ("max_drop", "max_class_drop", "min_map50")


def option_of(limit: str) -> str:
    """Return the option that a user types for a limit.

    Example:
        >>> option_of("max_class_drop")
        '--max-class-drop'
    """
    return f"--{limit.replace('_', '-')}"


def check_budget(budget: Budget) -> None:
    """Refuse limits that no report can mean.

    Raises:
        UsageError: a limit is outside [0, 1]; all of them at once.
    """
    limits = {name: getattr(budget, name) for name in BUDGET_LIMITS}
    wrong = [f"{option_of(name)}: expected a fraction in [0, 1], got {value}" for name, value in limits.items()
             if value is not None and not 0 <= value <= 1]  # fmt: skip
    if wrong:
        raise UsageError("; ".join(wrong))
