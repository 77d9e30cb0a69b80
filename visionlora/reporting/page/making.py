"""How the models were made, as they say themselves: adapter, training, quantization, and the curve of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup

from visionlora.reporting.page import charts
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row

_LONGEST = 200  # characters of a value
_MOST_EPOCHS, _LARGEST = 20_000, 1e9  # of a curve that can be drawn


@dataclass(frozen=True)
class Making:
    """One model: index, label, the facts as name and value, and its curve."""

    index: int
    label: str
    facts: tuple[tuple[str, str], ...]
    curve: Markup | None


def makings(report: Report) -> list[Making]:
    """Return the models that say how they were made."""
    rows = [(index, row, tuple(_facts(row.settings))) for index, row in enumerate(report.rows)]
    return [
        Making(index, row.label, facts, _curve(index, row, report.measured.words[0]))
        for index, row, facts in rows
        if facts
    ]


def _facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    adapter, training = _mapping(settings.get("adapter")), _mapping(settings.get("training"))
    hashes, scheme = _mapping(training.get("data_sha256")), _mapping(settings.get("scheme"))
    recipe = _mapping(training.get("recipe"))
    facts = {
        "adapter": _listed(
            ("rank ", adapter.get("rank")),
            ("alpha ", adapter.get("alpha")),
            ("targets ", adapter.get("targets")),
            ("full rank up to ", adapter.get("full") or None),
            ("normalization ", adapter.get("normalization") if adapter.get("normalization") != "frozen" else None),
            ("", adapter.get("activation") if adapter.get("activation") != "silu" else None),
        ),
        "training": _listed(
            ("epochs ", training.get("epochs")),
            ("this is epoch ", training.get("epoch")),
            ("image size ", training.get("imgsz")),
            ("batch ", training.get("batch")),
            ("learning rate ", training.get("lr0")),
            ("halvings of it: ", training.get("lr0_halved")),
            ("seed ", training.get("seed")),
            ("start of factors ", training.get("lora_start")),
            ("LoRA+ ratio ", training.get("lora_plus")),
        ),
        "recipe": _listed(
            ("", recipe.get("name")), ("shift ", _short(recipe.get("shift"))), ("detail ", _short(recipe.get("detail")))
        ),
        "trained on": _listed(("", training.get("data")), ("content ", str(hashes.get("train", ""))[:16])),
        "trained for": _listed(("", training.get("quantize"))),
        "quantization": _listed(
            ("for ", scheme.get("name")),
            ("activations ", scheme.get("activations")),
            ("weights ", scheme.get("weights")),
            ("ranges by ", scheme.get("method")),
            ("layers kept in float: ", _count(settings.get("float_layers"))),
            ("layers kept in int8: ", _count(settings.get("int8_layers"))),
            ("calibration images: ", _count(settings.get("calibration"))),
        ),
    }
    return [(name, value) for name, value in facts.items() if value]


def _curve(index: int, row: Row, score: str) -> Markup | None:
    curve = _mapping(row.settings.get("curve"))
    epochs, scores = curve.get("epoch"), curve.get("map50_95")
    if not (_numbers(epochs) and _numbers(scores) and len(epochs) == len(scores)):
        return None
    best = _mapping(row.settings.get("training")).get("epoch")
    return charts.training_curve(
        index, epochs, scores, best=best, score=score, label=f"{row.label}: {score} over epochs"
    )


def _numbers(values: Any) -> TypeGuard[list[float]]:
    """Whether these are numbers to draw; a model's file may say anything of itself."""
    return (
        isinstance(values, list)
        and 2 <= len(values) <= _MOST_EPOCHS
        and all(isinstance(value, int | float) and abs(value) < _LARGEST for value in values)
    )


def _short(value: Any) -> str | None:
    return f"{value:.2f}" if isinstance(value, float) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    return len(value) if isinstance(value, list | tuple) else None


def _listed(*parts: tuple[str, Any]) -> str:
    """Return what there is, with commas; a file may say anything, so nothing is longer than a few lines."""
    return ", ".join(f"{word}{str(value)[:_LONGEST]}" for word, value in parts if value not in (None, ""))
