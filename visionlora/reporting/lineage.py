"""What a reader must know before trusting a report: strangers among the models, pictures seen, classes unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from visionlora.reporting.formatting import code, list_words, name_words
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row

_KINDS = {"adapter": "adapter", "checkpoint": "merged", "onnx": "onnx"}
"""The kind of the file that stands behind a parent's role."""
_SIMILAR = 0.85
"""Similarity of two names from which on one may be the other, written otherwise (as `difflib` counts it)."""
_MOST_PAIRS = 500_000
"""Of names that are compared: seconds. Names of another spelling are mostly all so, and the first of them tell."""


def find_warnings(
    report: Report, image_names: Collection[str], model_names: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """Return a sentence for everything that the scores alone do not tell.

    Args:
        report: the numbers.
        image_names: of the images, relative to the folder of the data.yaml.
        model_names: the class names of each model, by its label; None leaves them out.
    """
    names = model_names or {}
    return (
        *_seen_pictures(report, set(image_names)),
        *_strangers(report),
        *_cuts(report),
        *(sentence for row, sentence in _unknown_classes(report, names) if _is_unexpected(row, report, names)),
        *_nothing_scored(report, names),
    )


def find_notes(report: Report, model_names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a sentence for what is as expected but good to know: classes that a base does not know, noisy times.

    Args:
        report: the numbers.
        model_names: the class names of each model, by its label.
    """
    unknown = _unknown_classes(report, model_names)
    return (
        *(sentence for row, sentence in unknown if not _is_unexpected(row, report, model_names)),
        *_noise(report),
        *_precisions(report),
    )


def _seen_pictures(report: Report, image_names: set[str]) -> list[str]:
    """Name the split train, and calibration images among the images."""
    sentences = []
    if report.data.split == "train":
        sentences.append("These are the pictures of the split train: models look better on what they were trained on.")
    for row in report.rows:
        chosen = row.settings.get("calibration", [])
        seen = sum(str(name) in image_names for name in chosen) if isinstance(chosen, list) else 0
        if seen:
            of = f"{seen} of the {len(chosen)} calibration images of {code(row.label)}"
            sentences.append(f"{of} are among the pictures.")
    return sentences


def _strangers(report: Report) -> list[str]:
    """Name each model that was made from another file than the one of that kind in the report.

    A stage that was made before its parent was made anew is judged beside a stranger.
    """
    sentences = []
    for row in report.rows:
        for role, sha256 in row.parents.items():
            kin = [other for other in report.rows if other.kind == _KINDS.get(role) and other is not row]
            # An adapter that a recipe was written into later names the bytes that it was trained as.
            known = {known for other in kin for known in (other.sha256, other.parents.get(role))}
            if kin and row.kind != role and sha256 not in known:
                those = ", ".join(f"{code(other.label)} ({other.sha256[:12]})" for other in kin)
                made = f"was made from another {name_words(role)} ({name_words(sha256[:12])})"
                sentences.append(f"{code(row.label)} {made} than {those}.")
    return sentences


def _cuts(report: Report) -> list[str]:
    """Name each file that leaves out low scores by itself: average precision counts them where they are there."""
    return [
        f"{code(row.label)} leaves out inside its file what scores below {row.cut:g}: its average precision lacks the "
        "detections below, which those of other models count."
        for row in report.rows
        if row.cut is not None and row.scores is not None
    ]


def _unknown_classes(report: Report, model_names: Mapping[str, Sequence[str]]) -> list[tuple[Row, str]]:
    """Name the classes with objects that a model does not know, where it knows others."""
    sentences = []
    for row in report.rows:
        unknown, others = _unshared(row, report, model_names)
        if unknown and row.classes and row.label in model_names:
            has = f"its other classes are {list_words(others)}" if others else "it has no other classes"
            missing = list_words(unknown)
            told = f"{code(row.label)} knows no class called {missing} and is not scored there; {has}."
            sentences.append((row, told))
    return sentences


def _is_unexpected(row: Row, report: Report, model_names: Mapping[str, Sequence[str]]) -> bool:
    """Whether a model should know the classes that it does not know.

    A base knows none of a niche's classes but those that it shares by chance. A model that was adapted should know
    them, and so should one that has a class of nearly the same name.
    """
    adapted = row.kind in ("adapter", "merged") or "adapter" in row.parents
    unknown, others = ([name.casefold() for name in names] for names in _unshared(row, report, model_names))
    compared = unknown[: _MOST_PAIRS // max(len(others), 1)]
    return adapted or any(get_close_matches(name, others, n=1, cutoff=_SIMILAR) for name in compared)


def _unshared(row: Row, report: Report, model_names: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the classes with objects that a model does not know, and those of the model that the data do not have."""
    known = set(row.classes)
    unknown = [name for name in report.data.judged if name not in known]
    return unknown, [name for name in model_names.get(row.label, ()) if name not in known]


def _nothing_scored(report: Report, model_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Name classes of the data and of the models where they share none; a base that knows none is no such case."""
    if any(row.scores is not None for row in report.rows):
        return []
    known = "; ".join(f"those of {code(label)} are {list_words(names)}" for label, names in model_names.items())
    return [
        f"No model knows a class of the data, so nothing is scored: its classes are {list_words(report.data.names)}"
        f"{f'; {known}' if known else ''}. Take data with the models' classes, or name the classes alike."
    ]


def _noise(report: Report) -> list[str]:
    """Say that the milliseconds are rough where something disturbed them."""
    noisy = [row for row in report.rows if row.timing is not None and row.timing.noisy]
    if not noisy:
        return []
    load = max(row.timing.other_load for row in noisy if row.timing is not None)
    why = f"other processes used {load:.1f} cores meanwhile" if load >= 0.1 else "calls of one model lie far apart"
    return [
        f"Milliseconds after a ~ are noisy ({why}): nothing follows from differences within the ranges; "
        "`visionlora bench` on a quiet machine measures them."
    ]


def _precisions(report: Report) -> list[str]:
    """Name the models whose float part is computed in less than float32."""
    return [
        f"{code(row.label)} is computed in {name_words(row.precision)} here, as its runtime chooses on this processor."
        for row in report.rows
        if row.precision not in (None, "f32", "float32")
    ]
