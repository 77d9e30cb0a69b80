"""The hyperparameters of Ultralytics' trainer that a user may set, and the defaults that differ here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import get_split_fraction
from ultralytics.utils.torch_utils import autocast

from visionlora.detectors.device import process_count
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.loggers import chosen_loggers
from visionlora.errors import UsageError

RECIPE: Mapping[str, Any] = {
    "optimizer": "AdamW",  # with frozen batch normalization; Ultralytics' `auto` would ignore lr0
    "warmup_bias_lr": 0.0,  # biases are deltas on a trained model: nothing to rush
}
_BETAS = ("Adam", "Adamax", "AdamW", "RAdam")  # they divide by 1 - momentum
OPTIMIZERS = ("Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD", "MuSGD", "auto")
TUNABLE = (
    *("amp", "cache", "channels_last", "cls_pw", "compile", "cos_lr", "deterministic", "fraction", "lrf"),
    *("momentum", "multi_scale", "nbs", "optimizer", "patience", "val", "warmup_bias_lr", "warmup_epochs"),
    *("warmup_momentum", "weight_decay", "workers"),  # the loop
    *("angle", "box", "cls", "dfl", "kobj", "pose", "rle"),  # gains of the losses
    *("mask_ratio", "overlap_mask"),  # how masks are drawn to learn from
    *("copy_paste", "copy_paste_mode"),  # of outlines
    *("auto_augment", "erasing"),  # of pictures that are classified
    *("bgr", "close_mosaic", "cutmix", "degrees", "fliplr", "flipud"),
    *("hsv_h", "hsv_s", "hsv_v", "mixup", "mosaic", "perspective", "scale", "shear", "translate"),  # augmentation
)
FREE, LENGTH = ("cache",), ("close_mosaic",)
"""What may change where a run goes on: anyway, and for more epochs (see `Family`)."""
_UNFITTED = ("amp", "compile", "fraction", "multi_scale")
"""What changes how much memory an epoch takes, and no measurement of it follows."""
_ELSEWHERE = {
    "batch": "use --batch",
    "data": "use --data",
    "device": "use --device",
    "epochs": "use --epochs",
    "exist_ok": "use --overwrite",
    "freeze": "use --targets: everything but the adapter is frozen",
    "imgsz": "use --imgsz",
    "lr0": "use --lr0",
    "model": "use --model",
    "name": "use --out",
    "pretrained": "the base is --model",
    "project": "use --out",
    "quantize": "use visionlora quantize",
    "resume": "use --resume",
    "save_dir": "use --out",
    "seed": "use --seed",
    "time": "use --epochs",
}
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "cache": (True, False, "ram"),
    "compile": (True, False, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "optimizer": OPTIMIZERS,
}
_OF_TASK: Mapping[str, tuple[str, ...]] = {
    "segment": ("copy_paste", "copy_paste_mode", "mask_ratio", "overlap_mask"),
    "pose": ("kobj", "pose", "rle"),
    "obb": ("angle",),
    "classify": ("auto_augment", "erasing"),
}
"""What has an effect for one task alone."""
_WHAT_FOR = {
    "segment": "it needs the outlines of objects, which task segment has",
    "pose": "it is of keypoints, which task pose has",
    "obb": "it is of angles, which task obb has",
    "classify": "it changes whole pictures, as task classify does",
}
_OF_BOXES = (
    *("bgr", "box", "close_mosaic", "cls", "cls_pw", "cutmix", "degrees", "dfl", "mixup", "mosaic", "multi_scale"),
    *("perspective", "shear", "translate"),
)
"""What has no effect on a classifier."""
_AT_LEAST_0 = (
    *("angle", "box", "close_mosaic", "cls", "dfl", "degrees", "kobj", "pose", "rle", "shear"),
    *("warmup_epochs", "workers"),
)
"""Ultralytics checks neither these nor the choices: it fails behind the first picture, or computes nonsense."""


def check_hyperparameters(asked: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return `asked` if every name may be set and every value is one that Ultralytics takes on `device`.

    Raises:
        UsageError: a name is unknown (the nearest is named), set elsewhere or without effect here, or a value is wrong;
            all of them are listed. So is a logger that cannot log.
    """
    chosen_loggers()
    problems = [problem for name, value in asked.items() for problem in _problems(name, value)]
    if problems:
        raise UsageError("--set " + "; ".join(problems))
    _check_momentum({"momentum": get_cfg().momentum, **RECIPE, **asked})
    _check_precision(asked.get("amp"), device)
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
    """Refuse `compile`, `multi_scale` and others where the step of a phase works without them (see `Family`).

    Raises:
        UsageError: one of them is asked for.
    """
    options = {"--lean": lean, "--quantize": int8, "--activation": relu, "--base-precision": rounded}
    chosen = [option for option, given in options.items() if given]
    if chosen and asked.get("compile"):
        raise UsageError(f"{chosen[0]}: works without torch.compile; drop it or --set compile")
    if asked.get("compile") and process_count(device) > 1:
        raise UsageError("--set compile: works on one GPU only; drop it, or name one in --device")
    if (int8 or teacher) and asked.get("multi_scale"):
        way = "--quantize trains" if int8 else "--activation learns from"
        advice = "drop one of them" if int8 else "pass --distill 0 to learn from the labels alone, or drop it"
        raise UsageError(f"--set multi_scale: {way} a graph of one image size; {advice}")
    unfitted = [name for name in _UNFITTED if name in asked]
    if fitted and unfitted:
        raise UsageError(
            f"--batch auto: measures steps without --set {', '.join(unfitted)}; give --batch a number, or drop it"
        )


def hyperparameters(
    asked: Mapping[str, Any], schedule: Mapping[str, Any], *, pictures: int, processes: int
) -> dict[str, Any]:
    """Return all hyperparameters that a training in float sets.

    Args:
        asked: by the user.
        schedule: `epochs`, `imgsz`, `batch`, `seed`, `lr0`.
        pictures: of all splits that are read.
        processes: how many train.
    """
    cache = _memory_cache(pictures, schedule["imgsz"], processes=processes)
    return {**RECIPE, "nbs": schedule["batch"], "cache": cache, **asked, **schedule}


def check_batches(base: Base, chosen: Mapping[str, Any], *, pictures: int, processes: int) -> None:
    """Refuse what is of another task, and steps of one picture whose smallest feature map can be one value.

    Raises:
        UsageError: something has no effect on the task, or the last step of an epoch would be one.
    """
    _check_task(base.task.name, chosen)
    batch, size, stride = chosen["batch"], chosen["imgsz"], max(base.stride, 32)
    varied = chosen.get("multi_scale") or 0.0
    used = used_pictures(pictures, get_split_fraction(chosen.get("fraction", 1.0), "train"))
    if size * (1 - varied) >= 2 * stride or smallest_batch(used, batch, processes) > 1:
        return
    others = range(processes, min(batch, used) + 2 * processes + 1, processes)
    fitting = [other for other in others if smallest_batch(used, other, processes) > 1]
    nearest = [f"--batch {min(fitting, key=lambda other: abs(other - batch))}"] if fitting else []
    larger = f"--imgsz {2 * stride}" if size < 2 * stride else "a smaller --set multi_scale"
    raise UsageError(
        f"--batch {batch}: expected at least 2 pictures in each step at --imgsz {size}"
        f"{f' with --set multi_scale={varied}' if varied else ''}, got 1 in the last one of {used} pictures: of its "
        f"smallest feature map batch normalization gets one value; try {' or '.join([*nearest, larger])}"
    )


def _check_task(task: str, chosen: Mapping[str, Any]) -> None:
    of_others = {name: each for each, names in _OF_TASK.items() if each != task for name in names}
    problems = [f"{name}: {_WHAT_FOR[other]}" for name, other in of_others.items() if name in chosen]
    if task == "classify":
        problems += [f"{name}: it is of detectors" for name in _OF_BOXES if name in chosen]
        if isinstance(chosen.get("scale"), list | tuple):
            problems.append(f"scale: expected one number below 1, got {chosen['scale']!r}")
    if problems:
        raise UsageError(f"--set {'; '.join(problems)}; the model is of task {task}")


def used_pictures(pictures: int, fraction: float) -> int:
    """Return how many pictures are trained on, of so many, under Ultralytics' `fraction`: a share, or a count."""
    return min(fraction, pictures) if isinstance(fraction, int) else max(1, round(pictures * fraction))


def smallest_batch(pictures: int, batch: int, processes: int) -> int:
    """Return how many pictures each process has in the last step of an epoch, where all take `batch` in the others."""
    share = -(-pictures // processes)
    each = min(batch // processes, share)
    return share % each or each


def int8_hyperparameters(
    chosen: Mapping[str, Any], asked: Mapping[str, Any], *, epochs: int, lr0: float
) -> dict[str, Any]:
    """Return those of an int8 phase behind a training in float with `chosen`: it goes on from a trained adapter."""
    return {**chosen, "warmup_epochs": 0, "close_mosaic": max(epochs // 2, 1), **asked, "epochs": epochs, "lr0": lr0}


def _problems(name: str, value: Any) -> list[str]:
    """Return what is wrong with one hyperparameter: nothing, or one sentence."""
    if name in _ELSEWHERE:
        return [f"{name}: {_ELSEWHERE[name]}"]
    if name not in TUNABLE:
        near = difflib.get_close_matches(str(name), TUNABLE, n=1)
        return [f"{name}: no hyperparameter of training" + (f"; did you mean {near[0]}?" if near else "")]
    parts = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(part, (bool, int, float, str)) for part in parts):
        return [f"{name}: expected a number, true, false or a word, got {value!r}"]
    if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
        return [f"{name}: expected a finite number, got {value!r}"]
    choices = _CHOICES.get(name)
    if choices and not any(type(value) is type(choice) and value == choice for choice in choices):
        return [f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}"]
    try:
        get_cfg(overrides={name: value})
    except (TypeError, ValueError) as error:
        return [" ".join(str(error).split())]
    if name in _AT_LEAST_0 and value < 0:
        return [f"{name}: expected at least 0, got {value!r}"]
    if name == "scale" and parts is value and not 0 < value[0] <= value[1]:
        return [f"scale: expected two factors above 0, the smaller one first, got {value!r}"]
    return []


def _check_momentum(settings: Mapping[str, Any]) -> None:
    """Refuse a momentum with which the optimizer's first step divides by 0."""
    name, momentum = settings["optimizer"], settings["momentum"]
    if name in _BETAS and momentum >= 1:
        raise UsageError(f"--set momentum: expected one below 1 for optimizer {name}, got {momentum}")


def _memory_cache(images: int, image_size: int, *, processes: int) -> str | bool:
    """Return Ultralytics' `cache`: `ram` where all pictures, once a process, fit a quarter of the free memory."""
    needed = processes * images * image_size * image_size * 3
    return "ram" if needed < psutil.virtual_memory().available / 4 else False


def _check_precision(amp: bool | str | None, device: str) -> None:
    """Refuse `bf16` as Ultralytics' `amp` where autocast would: on a device without bfloat16 arithmetic."""
    if str(amp).lower() != "bf16":
        return
    try:
        autocast(torch.bfloat16, device=device if device in ("cpu", "mps") else "cuda")
    except RuntimeError as error:
        raise UsageError(f"--set amp=bf16: not on --device {device}: {error}; use amp=true or amp=false") from error
