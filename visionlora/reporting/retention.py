"""What the models still know of the base's source domain: mAP after adaptation over before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionlora.errors import DataError
from visionlora.reporting.formatting import change_words, name_words
from visionlora.scoring import Change, DataUsed, ModelScores, SplitDetections, difference
from visionlora.vision.detections import Detections


@dataclass(frozen=True)
class Retained:
    """What one model still knows of the retention set."""

    label: str
    known: int
    """How many of the base's classes in the set it still knows."""
    map50_95: float
    """Over all the base's classes that have objects there; one that it does not know counts zero."""
    retention: float | None
    """`map50_95` over the base's; None if that is zero."""
    shared: Change | None
    """Difference to the base on the classes that both know; None if there is none with objects."""
    unchanged: bool
    """Whether every detection equals the base's bit for bit."""


@dataclass(frozen=True)
class Retention:
    """What the models still know of the base's source domain, classes matched by name."""

    data: DataUsed
    base: str
    """Label of the model that the others are held to: the first."""
    known: int
    """How many of the set's classes the base knows."""
    map50_95: float
    """The base's, over those that have objects."""
    rows: tuple[Retained, ...]
    sentence: str


@dataclass(frozen=True, eq=False)
class RetentionInput:
    """A model on the retention set."""

    label: str
    found: SplitDetections
    judgement: ModelScores | None


def measure_retention(models: Sequence[RetentionInput], data: DataUsed) -> Retention:
    """Compare the models with the first on the classes that the first knows.

    Args:
        models: the base first; an adapter that is switched off is a model of its own.
        data: the retention set.

    Raises:
        DataError: the base knows none of the set's classes that have objects.
    """
    base = models[0]
    check_base(base.label, base.found.classes, data)
    assert base.judgement is not None and base.judgement.scores.map50_95 is not None  # its classes have objects
    before = base.judgement.scores.map50_95
    rows = tuple(_retained(model, base, before) for model in models[1:])
    known = len(base.found.classes)
    return Retention(data, base.label, known, before, rows, retention_sentence(rows, base.label, known, before))


def check_base(label: str, known: Collection[str], data: DataUsed) -> None:
    """Refuse a first model that has nothing to forget.

    Args:
        label: of the first model.
        known: the retention set's classes that it knows.
        data: the retention set.

    Raises:
        DataError: it knows none of the set's classes that have objects.
    """
    names = set(known)
    if not any(count.objects for count in data.classes if count.name in names):
        raise DataError(
            f"--retention {data.path}: expected classes with objects that {label!r}, the first model, knows, got none "
            f"of {len(data.names)}; give the base as the first --model"
        )


def _retained(model: RetentionInput, base: RetentionInput, before: float) -> Retained:
    assert base.judgement is not None
    theirs = base.judgement
    asked = [score.name for score in theirs.scores.per_class if score.ap50_95 is not None]
    kept, shared = 0.0, None
    if model.judgement is not None:
        scores = {score.name: score.ap50_95 or 0.0 for score in model.judgement.scores.per_class}
        kept = sum(scores.get(name, 0.0) for name in asked) / len(asked)
        change = difference(
            model.judgement.scores,
            theirs.scores,
            draws=model.judgement.draws,
            other_draws=theirs.draws,
            to=base.label,
        )
        shared = None if change is None else change.map50_95
    known = len(set(model.found.classes) & set(base.found.classes))
    return Retained(model.label, known, kept, kept / before if before else None, shared, same(model.found, base.found))


def same(a: SplitDetections, b: SplitDetections) -> bool:
    """Whether two models found the same bit for bit."""
    return a.classes == b.classes and all(
        _masks(first) == _masks(second)
        and all(
            np.array_equal(getattr(first, name), getattr(second, name))
            for name in ("boxes_xyxy", "scores", "class_ids", "keypoints", "obb")
        )
        for first, second in zip(a.detections, b.detections, strict=True)
    )


def _masks(one: Detections) -> list[Any]:
    return [] if one.masks is None else [one.masks.rle(index) for index in range(len(one.masks))]


def retention_sentence(rows: Sequence[Retained], base: str, known: int, before: float) -> str:
    """Say in one line what each model forgets; models that forget alike are named together."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        labels.setdefault(_forgets(row, known, before), []).append(name_words(row.label))
    parts = [f"{', '.join(those)}: {phrase}" for phrase, those in labels.items()]
    start = f"{name_words(base)} has mAP50-95 {before:.3f} on the {known} classes that it knows"
    return f"{start}. {'; '.join(parts)}."


def _forgets(row: Retained, known: int, before: float) -> str:
    if row.unchanged:
        return "unchanged bit for bit"
    if not row.known:
        return f"forgets all {known} classes"
    lost = before - row.map50_95
    if row.known < known:
        part = f"forgets {lost:.3f} (knows {row.known} of {known} classes"
        return f"{part}, on those {change_words(row.shared)})" if row.shared else f"{part})"
    change = row.shared or Change(-lost, None)
    if not change.measurable:
        return f"{change_words(change)}"
    return f"forgets {lost:.3f} ({change_words(change)})" if lost > 0 else f"forgets nothing ({change_words(change)})"
