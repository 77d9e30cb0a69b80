"""The record of a run, training.json: what it is known by, read again, and compared when it goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.factors import FactorTraining
from visionlora.data import Dataset, content_hash
from visionlora.detectors import family_of
from visionlora.detectors.family import Base, Family
from visionlora.errors import ModelError, UsageError
from visionlora.files import atomic_output, sha256_of
from visionlora.formats.parsing import parse_json
from visionlora.tasks import DETECT
from visionlora.training.recipes import FAR, NEAR, RecipeChoice
from visionlora.training.settings import Schedule

_PLACES = ("model", "data")  # of what the hashes beside them name by content
_REASONS = ("recipe",)  # of what `adapter` names itself
_NEW = ("names", "order_sha256", "adapter.method")  # not in the settings of a run of version 0.2
_SINCE: Mapping[str, Any] = {
    "adapter.full": 0,
    "adapter.normalization": "frozen",
    "adapter.base_precision": FLOAT32,
    "lora_start": FactorTraining.start,
    "lora_plus": FactorTraining.plus,
}
"""What a run was begun with before these were settings."""
_LENGTH = "hyperparameters.epochs"
_OPTIONS = {
    "adapter.full": "--budget (most weights of a layer at full rank)",
    "adapter.normalization": "--recipe",
    "lora_start": "--start",
    "names": "--data (names of its classes)",
    "quantize.images": "--images",
    "quantize.learned": "--ranges",
    "task.name": "--task",
    "teacher": "--distill",
    "teacher.distill": "--distill",
}
"""What a user types for a setting; the others are options of their own names, or of `--set`."""
_OTHER = {
    "base": "--model: other weights",
    "data_sha256.train": "--data: other pictures or labels in train",
    "data_sha256.val": "--data: other pictures or labels in val",
    "order_sha256": "--data: other file names of its pictures",
    "start": "--adapter, or that of the phase before: another one",
    "teacher.adapter": "--adapter, or that of the first phase: another one",
}
"""What differs where the record has a hash, which says nothing to a reader."""
_VALUES: Mapping[str, Mapping[Any, str]] = {
    "adapter.normalization": {recipe.normalization: recipe.name for recipe in (NEAR, FAR)},
    "quantize.learned": {True: "learned", False: "fixed"},
}
"""What a user types for a value."""


def run_record(
    base: Base,
    dataset: Dataset,
    adapter: AdapterSettings,
    hyperparameters: Mapping[str, Any],
    *,
    start: Path | None = None,
    teacher: tuple[Path, float] | None = None,
    qat: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    factors: FactorTraining | None = None,
) -> dict[str, Any]:
    """Return what a phase is known by: model and data by place and content, settings, adapters by content, versions.

    Args:
        base: the frozen detector.
        dataset: with train and val.
        adapter: shape of the adapter.
        hyperparameters: of the trainer.
        start: adapter to begin with.
        teacher: adapter to learn from, and how much it counts.
        qat: what quantization-aware training is told.
        recipe: which it is, and what the pictures looked like.
        factors: how those of the adapter are trained; what is as usual is not recorded.
    """
    record: dict[str, Any] = {
        "model": str(base.path),
        "data": str(dataset.yaml_path),
        "names": list(dataset.names),
        "adapter": adapter.to_fields(),
        "hyperparameters": dict(hyperparameters),
        "base": base.fingerprint,
        "data_sha256": {split: content_hash(dataset.split(split)) for split in ("train", "val")},
        "order_sha256": _order_hash(dataset),
        "versions": family_of(base).versions(),
    }
    if base.task != DETECT:
        record["task"] = {"name": base.task.name, **base.task.settings()}
    if start is not None:
        record["start"] = sha256_of(start)
    if teacher is not None:
        record["teacher"] = {"adapter": sha256_of(teacher[0]), "distill": teacher[1]}
    if qat is not None:
        record["quantize"] = dict(qat)
    if recipe:
        record["recipe"] = dict(recipe)
    chosen = {} if factors is None else {"lora_start": factors.start, "lora_plus": factors.plus}
    record |= {name: value for name, value in chosen.items() if value != _SINCE[name]}
    return record


def _order_hash(dataset: Dataset) -> str:
    """Return the SHA-256 of the pictures' file names in their order, by which each is drawn; folders do not count."""
    names = [[os.fsencode(image.path.name).hex() for image in dataset.split(split)] for split in ("train", "val")]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def identity(record: Mapping[str, Any], family: Family) -> str:
    """Return the SHA-256 of the settings that all epochs of a run have in common, trained by the family's trainer."""
    kept = {name: value for name, value in record.items() if name not in (*_PLACES, *_REASONS, "versions")}
    changing = ("epochs", *family.length_hyperparameters, *family.free_hyperparameters)
    kept["hyperparameters"] = {name: value for name, value in kept["hyperparameters"].items() if name not in changing}
    adapter = kept["adapter"].items()
    kept["adapter"] = {name: value for name, value in adapter if (f"adapter.{name}", value) not in _SINCE.items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write them, whole or not at all."""
    text = json.dumps(record, indent=2) + "\n"
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Raises:
        ModelError: it is damaged.
    """
    try:
        settings = parse_json(path.read_bytes())
        for name, kind in (("hyperparameters", dict), ("adapter", dict), ("base", str), ("data_sha256", dict)):
            if not isinstance(settings[name], kind):
                raise ValueError(f"expected {name} of a run, got {settings[name]!r}")
        int(settings["hyperparameters"]["epochs"])
        AdapterSettings.from_fields(settings["adapter"])
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise ModelError(
            f"{path}: damaged: expected the settings of a run, got {error!r}; begin anew with --overwrite instead of "
            "--resume, or choose another --out"
        ) from error
    return settings


def check_same(
    before: Mapping[str, Any],
    record: Mapping[str, Any],
    out: Path,
    family: Family,
    *,
    choice: RecipeChoice,
    fixed: str,
) -> None:
    """Compare the settings of the run to resume with those asked for; more epochs may be, and other places of files.

    Args:
        before: of the run.
        record: asked for, as JSON gives them back.
        out: folder of the run, for messages.
        family: whose trainer it is.
        choice: what was asked for of the recipe; what follows from another recipe alone is not told.
        fixed: why no epochs can be added; empty where they can.

    Raises:
        UsageError: another setting differs, or the epochs of a phase that cannot be longer.
    """
    own, asked = (_kind(each) for each in (before, record))
    if own != asked:
        own, asked = (f"with --quantize {each}" if each else "without --quantize" for each in (own, asked))
        raise UsageError(f"{out}: this run began {own}, not {asked}; pass the options that it began with")
    free = (*_PLACES, *(f"hyperparameters.{name}" for name in family.free_hyperparameters))
    changed: dict[str, tuple[Any, Any]] = {
        name: (_SINCE.get(name) if old is None else old, _SINCE.get(name) if new is None else new)
        for name, old, new in _differences(before, record)
        if not name.startswith(("versions", *_REASONS)) and name not in free
        if old is not None or (name not in _NEW and (name, new) not in _SINCE.items())
    }
    epochs, more = changed.get(_LENGTH, (0, 0))
    if _LENGTH in changed:
        for name in family.length_hyperparameters:
            changed.pop(f"hyperparameters.{name}", None)
        if isinstance(epochs, int) and more > epochs and not fixed:
            del changed[_LENGTH]
    told = {name: pair for name, pair in changed.items() if not _follows(name, changed, choice)}
    if told:
        listed = "; ".join(
            f"{_OTHER[name]} than the run began with"
            if name in _OTHER
            else f"{_option(name, qat=bool(own))}: was {_value(name, old)}, now {_value(name, new)}"
            for name, (old, new) in told.items()
        )
        reason = "" if _LENGTH not in changed else f" ({fixed or 'a run cannot become shorter'})"
        raise UsageError(f"{out}: resume with the settings that the run began with; {listed}{reason}")


def _follows(name: str, changed: Mapping[str, tuple[Any, Any]], choice: RecipeChoice) -> bool:
    """Whether a setting changed only because another one did, which is told."""
    if name == "order_sha256":
        return any(other.startswith("data_sha256") for other in changed)
    asked = {"adapter.full": choice.budget, "adapter.alpha": choice.alpha, "hyperparameters.lr0": choice.lr0}
    if name in asked:
        return "adapter.normalization" in changed and asked[name] is None
    is_set = _option(name, qat=False).startswith("--set")  # a trainer may have another name for the batch too
    return is_set and changed[name] == changed.get("hyperparameters.batch")


def _option(name: str, *, qat: bool) -> str:
    """Return the option that a user types for a setting."""
    if name in _OPTIONS:
        return _OPTIONS[name]
    group, _, own = name.partition(".")
    if group == "hyperparameters" and own not in [field.name for field in fields(Schedule)]:
        return f"--set {own}"
    return f"--{'qat-' if qat and own in ('epochs', 'lr0') else ''}{(own or group).replace('_', '-')}"


def _value(name: str, value: Any) -> Any:
    """Return what a user types for the value of a setting."""
    if name == "teacher":
        return value["distill"] if isinstance(value, dict) else 0
    if value is None:
        return "not set"
    known = _VALUES.get(name, {})
    return known.get(value, value) if isinstance(value, (str, bool)) else value


def _kind(record: Mapping[str, Any]) -> Any:
    qat = record.get("quantize")
    return qat.get("to") if isinstance(qat, dict) else qat


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(before) + [key for key in now if key not in before]
        nested = [_differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [difference for differences in nested for difference in differences]
    return [] if before == now else [(name, before, now)]
