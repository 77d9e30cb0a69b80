"""How an adapter was trained, as its card says, and the curve of its run where that lies beside it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterCard

CURVE_FILE = "results.csv"
_LOSSES = "train/"
_HYPERPARAMETERS = ("epochs", "imgsz", "batch", "lr0", "seed")
_LONGEST, _LARGEST = 500, 2**53  # characters of a text; a number that every reader of JSON holds
_MOST_BYTES = 2_000_000  # of a curve's file: 10,000 epochs
_ROUNDING = 1e-4  # of the file's five decimals


def training_settings(card: AdapterCard, path: Path) -> dict[str, Any]:
    """Return how an adapter was made, for a row of a report.

    Args:
        card: of the adapter.
        path: of its file; `results.csv` beside it is its run's only if it has the score that the card names.

    Returns:
        `adapter` (rank, alpha, targets...), `training` (what the card has of epochs, epoch, imgsz, batch, lr0,
        lr0_halved, seed, data, data_sha256, quantize, recipe, lora_start, lora_plus) and `curve` (lists of equal
        length: epoch, map50_95, loss), those that there are.
    """
    record = card.training if isinstance(card.training, Mapping) else {}
    hyperparameters = record.get("hyperparameters")
    training = {
        **{name: value for name, value in _mapping(hyperparameters).items() if name in _HYPERPARAMETERS},
        "epoch": record.get("epoch"),
        "lr0_halved": record.get("lr0_halved") or None,
        "data": _end_of_path(record.get("data")),
        "data_sha256": _plain(_mapping(record.get("data_sha256"))),
        "quantize": _mapping(record.get("quantize")).get("to"),
        "recipe": _plain(_mapping(record.get("recipe"))),
        "lora_start": record.get("lora_start"),
        "lora_plus": record.get("lora_plus"),
    }
    made = {"adapter": card.settings.to_fields(), "training": _plain(training), "curve": _curve(card, path)}
    return {name: value for name, value in made.items() if value}


def _end_of_path(path: Any) -> str | None:
    """Return folder and file of a path; what stands before is the business of the machine that trained."""
    return "/".join(re.split(r"[\\/]", path)[-2:]) if isinstance(path, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can stand in a report: a card may come from anybody."""
    return {
        str(name): value[:_LONGEST] if isinstance(value, str) else value
        for name, value in values.items()
        if (isinstance(value, str) and value)
        or (isinstance(value, int | float) and abs(value) < _LARGEST)  # false of what is no number
        or (isinstance(value, dict) and value)
    }


def _curve(card: AdapterCard, path: Path) -> dict[str, list[float]] | None:
    """Return score and loss over epochs; None where there is no file, or one of another run."""
    file = path.parent / CURVE_FILE
    key, _ = card.sized_task.score_keys
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return None
        with file.open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        curve = {
            "epoch": [float(row["epoch"]) for row in rows],
            "map50_95": [float(row[key]) for row in rows],
            "loss": [sum(float(row[name]) for name in row if str(name).startswith(_LOSSES)) for row in rows],
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # not what a training writes
        return None
    best, score = card.training.get("epoch"), card.scores.get(key)
    known = dict(zip(curve["epoch"], curve["map50_95"], strict=True))
    same = isinstance(best, int) and isinstance(score, float) and abs(known.get(best, math.inf) - score) <= _ROUNDING
    return curve if same and all(math.isfinite(value) for line in curve.values() for value in line) else None
