"""Keeping an int8 detector within a budget of accuracy: judged by the one ruler, with as little float as it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from visionlora.errors import DataError, UsageError
from visionlora.int8 import QuantizationRecipe
from visionlora.progress import about
from visionlora.quantization.checks import MAX_SIZE_RATIO
from visionlora.quantization.float_detector import FloatDetector
from visionlora.quantization.groups import LayerGroup, layer_groups
from visionlora.quantization.report import (
    FEW_OBJECTS,
    GroupCost,
    QuantizationReport,
    Trial,
    exceeding,
    verdict_sentence,
    worst_class,
)
from visionlora.quantization.search import fewest_that_hold, order_groups
from visionlora.quantization.sensitivity import group_errors
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import (
    Budget,
    Difference,
    EvaluationSplit,
    Keep,
    Matches,
    Scores,
    check_budget,
    classification_scores,
    difference,
    refit_thresholds,
    score_and_match,
    score_draws,
)
from visionlora.vision.detections import check_thresholds
from visionlora.vision.inference import Network

SENSITIVITY_IMAGES = 16
"""How many calibration images the error of each group is measured on."""
_ROOM = 0.99
"""Share of the largest file that finer layers may fill the int8 file up to; names need a little too."""
_BYTES = {"float": 4.0, "int8": 1.0, "int7": 1.0, "int4": 0.5}
"""Of a weight."""

Build = Callable[[QuantizationRecipe], onnx.ModelProto]


@dataclass(frozen=True)
class AccuracyTarget:
    """What is asked of the int8 file on labelled images.

    Attributes:
        budget: what it may lose.
        thresholds: what its thresholds are to keep of the float model; None fits none.
        confidence: the float model's threshold.

    Raises:
        UsageError: a limit or the threshold is outside [0, 1], or `thresholds` is another word.
    """

    budget: Budget
    thresholds: Keep | None
    confidence: float

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_thresholds(self.confidence, 0, 1, name="--conf")
        if self.thresholds not in (None, *get_args(Keep)):
            raise UsageError(f"--thresholds: expected one of {', '.join(get_args(Keep))}, got {self.thresholds!r}")

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.budget != Budget()

    @property
    def judged(self) -> bool:
        """Whether labelled images are needed at all."""
        return self.limited or self.thresholds is not None


@dataclass(frozen=True, eq=False)
class _Scored:
    scores: Scores
    matches: Matches


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A form of the detector, judged: which groups are float in it, and which have int8 instead of int4 weights."""

    groups: tuple[LayerGroup, ...]
    int8: tuple[LayerGroup, ...]
    bytes: int
    scored: _Scored
    difference: Difference
    excess: float
    """By how much the limit that is missed most is missed; 0 where none is."""


def keep_budget(
    source: FloatDetector,
    recipe: QuantizationRecipe,
    build: Build,
    domain: EvaluationSplit,
    asked: AccuracyTarget,
    inputs: Iterable[NDArray[np.float32]],
    against: FloatDetector,
) -> tuple[QuantizationRecipe, QuantizationReport]:
    """Judge an int8 detector against its float form, and put groups of layers back to float until it holds.

    Every form is judged in full, by pycocotools. Only where the first does not hold, the error of each group is
    measured; the groups that cost most accuracy for their time come first, and as few as it takes go back. With int4
    weights, groups get int8 weights first, those that cost most accuracy for their bytes; only if that is not enough,
    groups go back to float instead.

    Args:
        source: the float detector.
        recipe: how to quantize it.
        build: makes the int8 file of a recipe, with its metadata.
        domain: the labelled images to judge on.
        asked: the budget, and whether to fit thresholds.
        inputs: calibration inputs, (1, 3, S, S) each, that the error of a group is measured on.
        against: the float detector of the same classes that the budget counts from, mostly `source` itself.

    Returns:
        The recipe that holds with the fewest float groups and bytes, or where none does the one that comes nearest; and
        its report, which says so.

    Raises:
        DataError: the detector knows none of the classes that have objects.
    """
    started = time.monotonic()
    reference = _score(against.network, against.path, domain, "float")
    judge = _Judge(recipe, build, domain, asked.budget, reference)
    judge.attempt()
    groups, errors = _search(source, judge, inputs)
    chosen = min(judge.attempts, key=lambda candidate: (candidate.excess, len(candidate.groups), candidate.bytes))
    refit = None
    if asked.thresholds is not None:
        refit = refit_thresholds(
            reference.matches, chosen.scored.matches, confidence=asked.confidence, keep=asked.thresholds
        )
    change = _with_intervals(reference, chosen.scored, domain)
    budget = asked.budget if asked.limited else None
    costs = _costs(groups, errors, chosen)
    report = QuantizationReport(
        data=domain.used,
        budget=budget,
        passed=chosen.excess == 0,
        sentence=verdict_sentence(
            change, budget, costs, weights=recipe.scheme.weights, score=source.network.task.score_words[0]
        ),
        warnings=_warnings(domain, chosen.difference),
        difference=change,
        groups=costs,
        trials=tuple(map(_trial, judge.attempts)),
        thresholds=refit,
        seconds=round(time.monotonic() - started, 1),
    )
    return _with_higher_precision(recipe, chosen.groups, chosen.int8), report


class _Judge:
    """Judges int8 forms of one float detector, each once."""

    def __init__(
        self, recipe: QuantizationRecipe, build: Build, domain: EvaluationSplit, budget: Budget, reference: _Scored
    ) -> None:
        self.recipe, self.budget = recipe, budget
        self.attempts: list[_Candidate] = []
        self._build, self._domain, self._reference = build, domain, reference

    def attempt(self, groups: tuple[LayerGroup, ...] = (), int8: tuple[LayerGroup, ...] = ()) -> _Candidate:
        """Judge the form in which some groups are float, or have int8 instead of int4 weights."""
        content = self._build(_with_higher_precision(self.recipe, groups, int8)).SerializeToString(deterministic=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            path.write_bytes(content)
            parts = [self.recipe.scheme.weights]
            parts += [f"{len(some)} groups {kind}" for kind, some in (("float", groups), ("int8", int8)) if some]
            word = ", ".join(parts)
            scored = _score(OnnxNetwork(path), path, self._domain, word)
        change = difference(scored.scores, self._reference.scores, draws=None, other_draws=None, to="float")
        assert change is not None  # both know the same classes, some of which have objects
        self.attempts.append(_Candidate(groups, int8, len(content), scored, change, _excess(change, self.budget)))
        return self.attempts[-1]


def _search(
    source: FloatDetector, judge: _Judge, inputs: Iterable[NDArray[np.float32]]
) -> tuple[tuple[LayerGroup, ...], NDArray[np.float64]]:
    """Give groups finer numbers if the first attempt does not hold; return all groups with the error of each."""
    first = judge.attempts[0]
    if first.excess == 0:
        return (), np.empty(0)
    convs = judge.recipe.plan_for(source.model.graph).convs
    groups = layer_groups(source.model, convs, source.network.image_size)
    known = source.network.names
    column_of = {name: column for column, name in reversed(list(enumerate(known)))}  # the first of equals
    columns = [column_of[name] for name in _lost_too_much(first.difference, judge.budget)]
    shown = list(inputs)

    def measured(recipe: QuantizationRecipe) -> NDArray[np.float64]:
        return group_errors(source.network.task, source.model, recipe, groups, shown)[:, columns].mean(axis=1)

    errors = measured(judge.recipe)
    scheme = judge.recipe.scheme
    room = _ROOM * MAX_SIZE_RATIO[scheme.weights] * source.path.stat().st_size - first.bytes
    if scheme.weights == "int4":
        gains = errors - measured(replace(judge.recipe, scheme=replace(scheme, weights="int8")))
        sizes = [group.weights for group in groups]
        more = _BYTES["int8"] - _BYTES["int4"]
        finer = order_groups(groups, gains, sizes, room_bytes=room, added_bytes=more)
        if fewest_that_hold(len(finer), lambda count: judge.attempt(int8=finer[:count]).excess == 0) is not None:
            return groups, errors
    times = [group.multiply_adds for group in groups]
    more = _BYTES["float"] - _BYTES[scheme.weights]
    order = order_groups(groups, errors, times, room_bytes=room, added_bytes=more)
    fewest_that_hold(len(order), lambda count: judge.attempt(order[:count]).excess == 0)
    return groups, errors


def _score(network: Network, path: Path, domain: EvaluationSplit, word: str) -> _Scored:
    with about(word):
        found = domain.find(network, [path])
    classified = partial(classification_scores, classes=found.classes)
    detected = partial(score_and_match, classes=found.classes, task=found.task)
    scores, matches = (detected if found.task.boxes else classified)(found.detections, domain.images, domain.names)
    if scores.map50_95 is None:
        raise DataError(
            f"{domain.used.path}: expected objects in split {domain.used.split!r} of classes that the model knows, got "
            f"none; it knows {', '.join(network.names)}"
        )
    return _Scored(scores, matches)


def _excess(change: Difference, budget: Budget) -> float:
    """By how much the limit that is missed most is missed, as a fraction of 1; 0 where none is."""
    excess = [0.0]
    if budget.max_drop is not None:
        excess.append(-change.map50_95.difference - budget.max_drop)
    if budget.max_class_drop is not None:
        excess.append(-worst_class(change).change.difference - budget.max_class_drop)
    return max(excess)


def _lost_too_much(change: Difference, budget: Budget) -> tuple[str, ...]:
    """The classes whose error is to go down: all where the mean lost too much, else those that did."""
    mean_lost = budget.max_drop is not None and -change.map50_95.difference > budget.max_drop
    return change.classes if mean_lost else exceeding(change, budget)


def _with_higher_precision(
    recipe: QuantizationRecipe, floats: Sequence[LayerGroup], int8: Sequence[LayerGroup]
) -> QuantizationRecipe:
    """Return the recipe with more groups in float, and more with int8 instead of int4 weights."""
    float_layers, int8_layers = ([layer for group in groups for layer in group.layers] for groups in (floats, int8))
    return replace(
        recipe,
        float_layers=(*recipe.float_layers, *float_layers),
        int8_layers=(*recipe.int8_layers, *int8_layers),
    )


def _with_intervals(reference: _Scored, chosen: _Scored, domain: EvaluationSplit) -> Difference:
    weights = domain.weights
    draws, other_draws = (
        None if weights is None else score_draws(scored.matches, weights, pooled=scored.scores.pooled)
        for scored in (chosen, reference)
    )
    change = difference(chosen.scores, reference.scores, draws=draws, other_draws=other_draws, to="float")
    assert change is not None
    return change


def _warnings(domain: EvaluationSplit, change: Difference) -> tuple[str, ...]:
    few = [f"{count.name} ({count.objects})" for count in domain.used.classes if 0 < count.objects < FEW_OBJECTS]
    judged = set(change.classes)
    none = [count.name for count in domain.used.classes if count.name not in judged]
    sentences = []
    if few:
        sentences.append(
            f"Fewer than {FEW_OBJECTS} labelled objects of {', '.join(few)}: a drop there is a few detections, see its "
            "interval; the budget is held to the measured drop."
        )
    if none:
        sentences.append(f"Not judged, without labelled objects or unknown to the model: {', '.join(none)}.")
    return tuple(sentences)


def _costs(groups: Sequence[LayerGroup], errors: NDArray[np.float64], chosen: _Candidate) -> tuple[GroupCost, ...]:
    error, multiply_adds = max(float(errors.sum()), 1e-30), sum(group.multiply_adds for group in groups)
    return tuple(
        GroupCost(
            name=group.name,
            layers=group.layers,
            error_share=float(own) / error,
            multiply_adds_share=group.multiply_adds / multiply_adds,
            float=group in chosen.groups,
            int8_weights=group in chosen.int8,
        )
        for group, own in zip(groups, errors, strict=True)
    )


def _trial(attempt: _Candidate) -> Trial:
    worst = worst_class(attempt.difference)
    return Trial(
        float_groups=tuple(group.name for group in attempt.groups),
        int8_groups=tuple(group.name for group in attempt.int8),
        drop=-attempt.difference.map50_95.difference,
        worst_class=worst.name,
        worst_drop=-worst.change.difference,
        passed=attempt.excess == 0,
    )
