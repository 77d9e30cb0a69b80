"""The hyperparameters of Ultralytics' trainer that a user may set, and the defaults that differ here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import autocast

from visionlora.errors import UsageError

RECIPE: Mapping[str, Any] = {
    "optimizer": "AdamW",  # with frozen batch normalization; Ultralytics' `auto` would ignore lr0
    "warmup_bias_lr": 0.0,  # biases are deltas on a trained model: nothing to rush
}
OPTIMIZERS = ("Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD", "MuSGD", "auto")
TUNABLE = (
    *("amp", "cache", "channels_last", "cls_pw", "compile", "cos_lr", "deterministic", "fraction", "lrf"),
    *("momentum", "multi_scale", "nbs", "optimizer", "patience", "val", "warmup_bias_lr", "warmup_epochs"),
    *("warmup_momentum", "weight_decay", "workers"),  # the loop
    *("box", "cls", "dfl"),  # gains of the losses
    *("bgr", "close_mosaic", "cutmix", "degrees", "fliplr", "flipud"),
    *("hsv_h", "hsv_s", "hsv_v", "mixup", "mosaic", "perspective", "scale", "shear", "translate"),  # augmentation
)
_ELSEWHERE = {
    "batch": "use --batch",
    "copy_paste": "it needs the outlines of objects; labels are boxes here",
    "copy_paste_mode": "it needs the outlines of objects; labels are boxes here",
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


def check_hyperparameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return `asked` if every name may be set and every value is one that Ultralytics takes.

    Raises:
        UsageError: a name is unknown (the nearest is named), set elsewhere or without effect here, or a value is wrong.
    """
    problems = []
    for name in asked:
        if name in _ELSEWHERE:
            problems.append(f"{name}: {_ELSEWHERE[name]}")
        elif name not in TUNABLE:
            near = difflib.get_close_matches(name, TUNABLE, n=1)
            problems.append(f"{name}: no hyperparameter of training" + (f"; did you mean {near[0]}?" if near else ""))
    if asked.get("optimizer", "auto") not in OPTIMIZERS:
        problems.append(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {asked['optimizer']!r}")
    if str(asked.get("cache", "")).lower() == "disk":
        problems.append("cache: nothing is written beside the pictures; use cache=ram or cache=false")
    if problems:
        raise UsageError("--set " + "; ".join(problems))
    try:
        get_cfg(overrides=dict(asked))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--set: {' '.join(str(error).split())}") from error
    return dict(asked)


def memory_cache(images: int, image_size: int, *, processes: int = 1) -> str | bool:
    """Return Ultralytics' `cache` setting: `ram` where all pictures fit a quarter of the free memory.

    Args:
        images: of all splits that are read.
        image_size: longer side of a picture in pixels.
        processes: how many keep all of them.
    """
    needed = processes * images * image_size * image_size * 3
    return "ram" if needed < psutil.virtual_memory().available / 4 else False


def check_device(device: str) -> str:
    """Return `device` if it is there.

    Args:
        device: `cpu`, `mps`, or the numbers of GPUs such as `0` or `0,1`.

    Raises:
        UsageError: it is not of this form, names a GPU twice, or there is no such device.
    """
    numbers = device.split(",")
    if all(number.isdigit() for number in numbers):
        if len(set(map(int, numbers))) < len(numbers):
            raise UsageError(f"--device {device}: expected different GPUs; name each one once")
        count = torch.cuda.device_count()
        if all(int(number) < count for number in numbers):
            return device
        raise UsageError(f"--device {device}: there are {count} GPUs here; use cpu" + (", 0..." if count else ""))
    if device == "cpu" or (device == "mps" and torch.backends.mps.is_available()):
        return device
    raise UsageError(
        f"--device {device}: expected cpu, 0 or 0,1" + ("" if device != "mps" else "; there is no MPS here")
    )


def check_precision(amp: bool | str | None, device: str) -> None:
    """Refuse `bf16` as Ultralytics' `amp` where autocast would: on a device without bfloat16 arithmetic.

    Raises:
        UsageError: it is asked for and `device` has none.
    """
    if str(amp).lower() != "bf16":
        return
    try:
        autocast(torch.bfloat16, device=device if device in ("cpu", "mps") else "cuda")
    except RuntimeError as error:
        raise UsageError(f"--set amp=bf16: not on --device {device}: {error}; use amp=true or amp=false") from error


def process_count(device: str) -> int:
    """Return how many processes train on `device`: one a GPU."""
    return len(device.split(","))


def check_batch(batch: int, device: str) -> None:
    """Refuse a batch that cannot be shared equally by the processes on `device`.

    Raises:
        UsageError: their number does not divide it.
    """
    count = process_count(device)
    if batch % count:
        below = batch // count * count
        nearest = f"{below} or {below + count}" if below else f"{count}"
        raise UsageError(
            f"--batch {batch}: expected a multiple of {count}, a share for each GPU of --device {device}; try {nearest}"
        )


def default_device() -> str:
    """Return `0` where torch sees a GPU, else `cpu`."""
    return "0" if torch.cuda.is_available() else "cpu"
