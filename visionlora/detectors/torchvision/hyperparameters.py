"""The hyperparameters of the trainer of torchvision's detectors, with their defaults and what they may be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchvision.models.detection.ssd import SSD

from visionlora.detectors.device import process_count
from visionlora.detectors.family import Base
from visionlora.errors import UsageError


@dataclass(frozen=True)
class _Setting:
    """A hyperparameter: its default, the least and the most that it may be."""

    default: bool | int | float
    least: float = 0
    most: float = math.inf


TUNABLE: Mapping[str, _Setting] = {
    "amp": _Setting(True),  # half precision, on a GPU
    "cos_lr": _Setting(False),  # the rate falls along a cosine, not a line
    "lrf": _Setting(0.01, most=1.0),  # the last learning rate, as a share of the first
    "patience": _Setting(100, least=1),  # epochs without a better score after which it stops
    "warmup_epochs": _Setting(3.0),
    "weight_decay": _Setting(0.0005, most=1.0),
    "workers": _Setting(4, most=256),  # processes that read pictures
    # How likely torchvision's transforms are (transforms.v2): pictures of an object or two stay recognisable.
    "fliplr": _Setting(0.5, most=1.0),
    "iou_crop": _Setting(0.5, most=1.0),
    "photometric": _Setting(0.5, most=1.0),
    "zoom_out": _Setting(0.5, most=1.0),
}
FREE, LENGTH = ("workers",), ()
"""What may change where a run goes on: anyway, and for more epochs (see `Family`)."""
_ELSEWHERE = {
    **{name: f"use --{name}" for name in ("batch", "data", "device", "epochs", "imgsz", "lr0", "model", "seed")},
    "resume": "use --resume",
    "freeze": "use --targets: everything but the adapter is frozen",
}
_NO_INT8 = (
    "--quantize: the loss under the rounding of the int8 file is that of Ultralytics' heads alone; train torchvision's "
    "detectors in float, and quantize the exported file (visionlora quantize)"
)


def check_hyperparameters(asked: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return `asked` if every name may be set and every value is in its range.

    Raises:
        UsageError: not, or there are several devices; all problems are listed.
    """
    if process_count(device) > 1:
        raise UsageError(f"--device {device}: torchvision's detectors train on one GPU; give one number, such as 0")
    problems = [problem for name, value in asked.items() for problem in _problems(str(name), value)]
    if problems:
        raise UsageError("--set " + "; ".join(problems))
    return dict(asked)


def check_step(
    asked: Mapping[str, Any],
    device: str,
    *,
    lean: bool,
    int8: bool,
    relu: bool,
    rounded: bool,
    teacher: bool,
    fitted: bool,
    addition: bool,
) -> None:
    """Refuse what the step of these detectors cannot do (see `Family`).

    Raises:
        UsageError: it is asked for.
    """
    if int8:
        raise UsageError(_NO_INT8)
    if relu:
        raise UsageError("--activation: replaces SiLU, which torchvision's detectors do not have; drop it")
    if addition:
        raise UsageError(
            "--method: modules beside the weights are written for the blocks of Ultralytics' models; choose one that "
            "adapts weights, such as lora"
        )
    if lean:
        raise UsageError("--lean: computes again what Ultralytics' modules give; drop it, or give a smaller --batch")
    if fitted:
        raise UsageError("--batch auto: nothing measures torchvision's training; give --batch a number, such as 16")


def hyperparameters(
    asked: Mapping[str, Any], schedule: Mapping[str, Any], *, pictures: int, processes: int
) -> dict[str, Any]:
    """Return all hyperparameters of a training (see `Family`)."""
    return {**{name: setting.default for name, setting in TUNABLE.items()}, **asked, **schedule}


def check_batches(base: Base, chosen: Mapping[str, Any], *, pictures: int, processes: int) -> None:
    """Refuse a last step of one picture where the smallest map with a norm behind it can be one value.

    Raises:
        UsageError: a batch would be too small.
    """
    batch, size = min(chosen["batch"], pictures), chosen["imgsz"]
    if (pictures % batch or batch) > 1 or not (isinstance(base.model, SSD) or size < 64):
        return
    fitting = [other for other in range(2, pictures + 1) if (pictures % other or other) > 1]
    nearest = min(fitting, key=lambda other: abs(other - batch), default=None)
    advice = "give more pictures" if nearest is None else f"try --batch {nearest}"
    raise UsageError(
        f"--batch {chosen['batch']}: expected at least 2 pictures in each step at --imgsz {size}, got 1 in the last "
        f"one of {pictures} pictures: of its smallest feature map batch normalization gets one value; {advice}"
    )


def int8_hyperparameters(
    chosen: Mapping[str, Any], asked: Mapping[str, Any], *, epochs: int, lr0: float
) -> dict[str, Any]:
    """Refuse: there is no int8 phase.

    Raises:
        UsageError: always; `check_step` says it before.
    """
    raise UsageError(_NO_INT8)


def _problems(name: str, value: Any) -> list[str]:
    """Return what is wrong with one hyperparameter: nothing, or one sentence."""
    if name in _ELSEWHERE:
        return [f"{name}: {_ELSEWHERE[name]}"]
    if name not in TUNABLE:
        near = difflib.get_close_matches(name, TUNABLE, n=1)
        known = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(TUNABLE)}"
        return [f"{name}: no hyperparameter of training torchvision's detectors{known}"]
    setting = TUNABLE[name]
    if isinstance(setting.default, bool):
        return [] if isinstance(value, bool) else [f"{name}: expected true or false, got {value!r:.40}"]
    kinds = (int,) if isinstance(setting.default, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not setting.least <= value <= setting.most:
        number = "a whole number" if kinds == (int,) else "a number"
        most = "" if setting.most == math.inf else f" and at most {setting.most:g}"
        return [f"{name}: expected {number} of at least {setting.least:g}{most}, got {value!r:.40}"]
    return [] if math.isfinite(value) else [f"{name}: expected a finite number, got {value!r:.40}"]
