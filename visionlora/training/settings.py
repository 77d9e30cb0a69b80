"""The settings of a training, checked before anything is removed, written or trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.data import Dataset
from visionlora.detectors.device import process_count
from visionlora.detectors.family import Base
from visionlora.errors import UsageError
from visionlora.int8.scheme import WEIGHTS

RANGES = ("learned", "fixed")
MAX_SEED = 2**32 - 1025  # NumPy takes 32 bits, and each process adds its number


def check_count(value: Any, option: str, *, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number of at least `least`, and of at most `most` where there is such a bound.

    Raises:
        UsageError: it is none; `option` is named.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{option}: expected a whole number, got {value!r}")
    if value < least or (most is not None and value > most):
        above = "" if most is None else f" and at most {most}"
        raise UsageError(f"{option}: expected a whole number of at least {least}{above}, got {value}")


def check_learning_rate(rate: Any, option: str) -> float:
    """Return a learning rate.

    Raises:
        UsageError: it is not in (0, 1].
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise UsageError(f"{option}: expected a learning rate above 0 and at most 1, such as 0.001, got {rate!r}")
    return float(rate)


def checked_start(path: Path, settings: AdapterSettings) -> Path:
    """Return the adapter to go on with if it has the shape that was asked for.

    Raises:
        AdapterError: it cannot be read.
        UsageError: it has another shape.
    """
    own = read_adapter_card(path).settings
    wanted, given = ({**each.to_fields(), "activation": None} for each in (settings, own))
    changed = [name for name, value in wanted.items() if given.get(name) != value]
    differ = [f"{name} {given.get(name)!r}, not {wanted[name]!r}" for name in changed]
    if differ:
        raise UsageError(f"--adapter {path}: it has {', '.join(differ)}; pass what it has")
    if own.activation not in ("silu", settings.activation):
        raise UsageError(f"--adapter {path}: it has --activation {own.activation}; pass the same")
    return path


def check_belongs(path: Path, base: Base, dataset: Dataset) -> None:
    """Refuse an adapter to go on with that is of another base or finds other classes.

    Raises:
        AdapterError: it is of another base.
        UsageError: its classes are not those of the data set, in their order.
    """
    card = read_adapter_card(path)
    card.check_base(base.fingerprint, str(base.path))
    if card.names != dataset.names:
        own, asked = (", ".join(names) for names in (card.names, dataset.names))
        raise UsageError(f"--adapter {path}: it finds {own}; {dataset.yaml_path} names {asked}; pass its data set")


def check_ways(
    *, quantize: str | None, ranges: str, distill: float, start: Path | None, settings: AdapterSettings
) -> None:
    """Refuse ways to train that are not known, or do not go together.

    Raises:
        UsageError: one of them is or does not.
    """
    if quantize not in (None, *WEIGHTS):
        raise UsageError(f"--quantize: expected {' or '.join(WEIGHTS)}, got {quantize!r}")
    if ranges not in RANGES:
        raise UsageError(f"--ranges: expected {' or '.join(RANGES)}, got {ranges!r}")
    if isinstance(distill, bool) or not isinstance(distill, (int, float)) or not 0 <= distill < math.inf:
        raise UsageError(f"--distill: expected a number of at least 0, got {distill!r}")
    if start is not None and not (quantize or settings.relu_targets):
        raise UsageError("--adapter: goes on with an adapter for --quantize or --activation; give one of them")


def check_step(
    extra: Mapping[str, Any],
    *,
    lean: bool,
    quantize: str | None,
    distill: float,
    device: str,
    settings: AdapterSettings,
) -> None:
    """Refuse what the step of a part could not do, before the first part is trained.

    Raises:
        UsageError: it could not.
    """
    if (lean or quantize or settings.relu_targets) and extra.get("compile"):
        name = "--lean" if lean else "--quantize" if quantize else "--activation"
        raise UsageError(f"{name}: works without torch.compile; drop it or --set compile")
    if extra.get("compile") and process_count(device) > 1:
        raise UsageError("--set compile: works on one GPU only; drop it, or name one in --device")
    if (quantize or distill) and extra.get("multi_scale"):
        way = "--quantize trains" if quantize else "--activation learns from"
        advice = "drop one of them" if quantize else "pass --distill 0 to learn from the labels alone, or drop it"
        raise UsageError(f"--set multi_scale: {way} a graph of one image size; {advice}")
    if lean and quantize:
        raise UsageError("--lean: has no effect on int8 training, which keeps little anyway; drop --lean or --quantize")
