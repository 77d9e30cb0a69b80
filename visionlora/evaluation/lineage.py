"""What a reader must know before trusting a report: strangers among the models, pictures seen, classes unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from visionlora.evaluation.report import Report
from visionlora.evaluation.words import list_words

_KINDS = {"adapter": "adapter", "checkpoint": "merged", "onnx": "onnx"}
"""The kind of the file that stands behind a parent's role."""


def find_warnings(
    report: Report, image_names: Collection[str], model_names: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """Return a sentence for everything that the scores alone do not tell.

    Args:
        report: the numbers.
        image_names: of the images, relative to the folder of the data.yaml.
        model_names: the class names of each model, by its label; None leaves them out.
    """
    return (
        *_seen_pictures(report, set(image_names)),
        *_strangers(report),
        *_unknown_classes(report, model_names or {}),
        *_nothing_scored(report, model_names or {}),
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
            sentences.append(f"{seen} of the {len(chosen)} calibration images of `{row.label}` are among the pictures.")
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
                those = ", ".join(f"`{other.label}` ({other.sha256[:12]})" for other in kin)
                sentences.append(f"`{row.label}` was made from another {role} ({sha256[:12]}) than {those}.")
    return sentences


def _unknown_classes(report: Report, model_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the classes that a model does not know, where it knows others: they may only be written otherwise."""
    sentences = []
    for row in report.rows:
        unknown = [name for name in report.data.names if name not in row.classes]
        others = [name for name in model_names.get(row.label, ()) if name not in row.classes]
        if unknown and row.classes and row.label in model_names:
            has = f"its other classes are {list_words(others)}" if others else "it has no other classes"
            missing = list_words(unknown)
            sentences.append(f"`{row.label}` knows no class called {missing} and is not scored there; {has}.")
    return sentences


def _nothing_scored(report: Report, model_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Name classes of the data and of the models where they share none; a base that knows none is no such case."""
    if any(row.scores is not None for row in report.rows):
        return []
    known = "; ".join(f"those of `{label}` are {list_words(names)}" for label, names in model_names.items())
    return [
        f"No model knows a class of the data, so nothing is scored: its classes are {list_words(report.data.names)}"
        f"{f'; {known}' if known else ''}. Take data with the models' classes, or name the classes alike."
    ]
