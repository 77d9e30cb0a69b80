"""Reading and writing Ultralytics checkpoints of detectors, and telling one base from another."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import ultralytics
from torch import nn
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, guess_model_task, torch_safe_load
from ultralytics.utils import ASSETS, DEFAULT_CFG_DICT, LOGGER
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from visionlora.cards import family_in
from visionlora.detectors.checkpoints import UNREADABLE, fingerprint, pack, reason_of
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.classes import class_output_names
from visionlora.detectors.ultralytics.heads import HEADS, task_of_model
from visionlora.detectors.ultralytics.unpickling import read_restricted
from visionlora.errors import ModelError
from visionlora.formats.kinds import CHECKPOINT
from visionlora.formats.pickled import Opaque, read_plain
from visionlora.formats.text import class_names
from visionlora.tasks import TASKS, Segment, Task
from visionlora.trust import is_trusted

FAMILY = "ultralytics"
_EXPECTED = f"expected an Ultralytics checkpoint ({CHECKPOINT.suffix})"
CARD_KEY = "visionlora"  # the entry of a checkpoint that holds our metadata as a plain dict


def refusal(path: Path) -> str:
    """Return why a path is no checkpoint of Ultralytics, by its name and the family that its card names (see `Family`).

    A damaged file may be one.
    """
    reason = _misnamed(path)
    if reason or not path.is_file():
        return reason
    try:
        entries = read_plain(path)
    except ModelError:
        return ""
    family = family_in(entries.get(CARD_KEY))
    if family not in (None, FAMILY):
        return f"{_EXPECTED}, got a detector of {family!r:.40}"
    return "" if isinstance(entries.get("ema") or entries.get("model"), Opaque) else f"{_EXPECTED}, {_got(entries)}"


def load_base(path: Path | str) -> Base:
    """Load an Ultralytics checkpoint of a detector; a bare name such as `yolo11n.pt` is downloaded as Ultralytics does.

    The code in the file is not run, unless the caller is inside `visionlora.trusted()`.

    Raises:
        ModelError: the file is missing, unreadable, of another task, of an unsupported head, already fused, or needs
            what is no part of a detector; its class names are not one for each class output.

    Example:
        >>> load_base("yolo11n.pt").names[:2]  # doctest: +SKIP
        ('person', 'bicycle')
    """
    path = _found(Path(path))
    try:
        checkpoint = _read(path)
        model = _model_of(checkpoint, path)
        _check_detector(model, path)
        names = _names_of(model, path)
        task = task_of_model(model)
        _check_runs(model, task, len(names))
        return Base(
            model=model,
            path=path,
            names=names,
            image_size=_image_size_of(checkpoint),
            fingerprint=fingerprint(model),
            stride=int(model.stride.max()),
            family=FAMILY,
            card=_card_of(checkpoint),
            task=task,
        )
    except UNREADABLE as error:
        reason = reason_of(error)
        raise ModelError(f"{path}: cannot be read as an Ultralytics checkpoint: {reason}") from error


def raw_prediction(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the raw prediction of the one-to-many head in eval mode, a tensor an output; leave nothing behind.

    The model may carry an adapter that is not merged.
    """
    head = cast(DetectionModel, model).model[-1]
    before = dict(vars(head))
    try:
        head.end2end = False
        return as_outputs(model(images)[0])
    finally:
        vars(head).clear()
        vars(head).update(before)  # the head keeps its grid


def as_outputs(prediction: Any) -> tuple[torch.Tensor, ...]:
    """Return what a head gives, one tensor or several, as a tuple."""
    return tuple(prediction) if isinstance(prediction, tuple | list) else (prediction,)


def pack_checkpoint(base: Base, *, image_size: int, card: Mapping[str, Any]) -> bytes:
    """Return `base.model` as the bytes of an ordinary Ultralytics checkpoint in float32, with `card` in its own entry.

    `YOLO(path)` loads, validates, exports and fine-tunes such a file; Ultralytics ignores the extra entry.
    """
    model: Any = copy.deepcopy(base.model).cpu().float().eval()
    model.args = {"task": base.task.name, "imgsz": image_size, "model": base.path.name}
    model.criterion = None
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": dict(model.args),
        "date": datetime.now(timezone.utc).isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        CARD_KEY: json.loads(json.dumps(card)),
    }
    return pack(checkpoint)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a training gives."""
    return {package: version(package) for package in ("torch", "torchvision", "ultralytics", "numpy")}


def _found(path: Path) -> Path:
    """Return where a checkpoint is, downloaded if it was asked for by the bare name of a published one."""
    reason = _misnamed(path)
    if reason:
        raise ModelError(f"{path}: {reason}")
    if path.is_file():
        return path
    if path.parent != Path("."):
        raise ModelError(f"{path}: no such file; give a checkpoint, or a bare name such as yolo11n.pt to download it")
    if not _is_published(path.name):
        raise ModelError(f"{path}: no such file, and no name of a published model such as yolo11n.pt; check --model")
    try:
        return Path(attempt_download_asset(path.name))
    except OSError as error:
        raise ModelError(
            f"{path}: no such file here, and it cannot be downloaded: {str(error).rstrip('.')}; pass the path of a "
            "checkpoint on this machine"
        ) from error


def _misnamed(path: Path) -> str:
    """Return why a path cannot be a checkpoint of Ultralytics, whatever it holds; empty where it can."""
    if path.suffix and path.suffix != CHECKPOINT.suffix:
        return f"{_EXPECTED}, got a {path.suffix} file"
    if path.suffix:
        return f"{_EXPECTED}, got a folder" if path.is_dir() else ""
    meant = Path(f"{path}{CHECKPOINT.suffix}")
    advice = f"; did you mean {meant}?" if meant.is_file() or _is_published(str(meant)) else ""
    return f"{_EXPECTED}, got {'a folder' if path.is_dir() else 'a name without an ending'}{advice}"


def _is_published(name: str) -> bool:
    """Whether Ultralytics finds a bare name among those that it downloads."""
    return check_yolov5u_filename(name, verbose=False) in GITHUB_ASSETS_NAMES


def _read(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint holds."""
    if is_trusted():
        with quiet():
            content = torch_safe_load(path, safe_only=False)[0]
    else:
        content = read_restricted(path)
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: expected an Ultralytics checkpoint, got a file that holds a {type(content).__name__}"
        )
    return content


def _model_of(checkpoint: Mapping[str, Any], path: Path) -> Any:
    """Return the model in a checkpoint as Ultralytics' `load_checkpoint` does: the averaged one, float32, eval mode."""
    model: Any = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        raise ModelError(f"{path}: expected an Ultralytics checkpoint, {_got(checkpoint)}")
    if checkpoint.get("modelopt"):
        raise ModelError(f"{path}: it was trained under another tool's quantization; give the float checkpoint")
    model = model.float().eval()
    model.args = {**DEFAULT_CFG_DICT, **(checkpoint.get("train_args") or {})}
    model.pt_path = str(path)
    model.task = getattr(model, "task", guess_model_task(model))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
        elif isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # made before torch 1.11
    return model


def _got(checkpoint: Mapping[str, Any]) -> str:
    """Say what a file without a model holds."""
    parts = [checkpoint, *(part for part in checkpoint.values() if isinstance(part, dict))]
    weights = any(isinstance(value, torch.Tensor | Opaque) for part in parts for value in part.values())
    return "got weights without the model that they belong to" if weights else "got a file without a model"


def _names_of(model: DetectionModel, path: Path) -> tuple[str, ...]:
    """Return the class names in the order of the class outputs, and put them into the model so."""
    try:
        names = class_names(model.names)
    except ValueError as error:
        raise ModelError(f"{path}: its class names cannot be used: {error}") from error
    outputs = {len(cast(torch.Tensor, model.get_submodule(name).weight)) for name in class_output_names(model)}
    if outputs != {len(names)} or getattr(model.model[-1], "nc", len(names)) != len(names):
        counts = " and ".join(map(str, sorted(outputs)))
        raise ModelError(f"{path}: expected one class name for each class output, got {len(names)} names for {counts}")
    if len({*names}) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ModelError(f"{path}: expected class names that differ, got {twice!r} more than once")
    model.names = dict(enumerate(names))
    return names


@torch.no_grad()
def _check_runs(model: DetectionModel, task: Task, classes: int) -> None:
    """Run the model on a small picture, so that a damaged one is met here.

    Args:
        model: the detector.
        task: what it finds.
        classes: how many there are.

    Raises:
        ValueError: its strides or what it returns have no meaning.
        Exception: its parts do not fit (see `UNREADABLE`).
    """
    head = model.model[-1]
    if not task.boxes:
        (scores,) = raw_prediction(model, torch.zeros(1, 3, 64, 64))
        if scores.shape != (1, classes):
            raise ValueError(f"expected a prediction {(1, classes)}, got {tuple(scores.shape)}")
        return
    strides = [float(stride) for stride in head.stride]
    if len(strides) != head.nl or not all(1 <= stride <= 256 for stride in strides):
        raise ValueError(f"expected {head.nl} strides from 1 to 256, got {strides}")
    side = max(64, int(max(strides)))
    returned = [tuple(output.shape) for output in raw_prediction(model, torch.zeros(1, 3, side, side))]
    expected: list[tuple[int, ...]] = [(1, task.rows(classes), sum(int(side // stride) ** 2 for stride in strides))]
    if isinstance(task, Segment):
        expected.append((1, task.coefficients, side // 4, side // 4))
    if returned != expected:
        raise ValueError(f"expected a prediction {expected}, got {returned}")


def _image_size_of(checkpoint: Mapping[str, Any]) -> int:
    """Return the side that a model was trained at; 640, Ultralytics' default, where the file does not say."""
    size = (checkpoint.get("train_args") or {}).get("imgsz", 640)
    size = max(size) if isinstance(size, list | tuple) else size
    if isinstance(size, bool) or not isinstance(size, int | float) or not 1 <= size <= 65536:
        raise ValueError(f"expected an image size in pixels, got {size!r:.60}")
    return int(size)


def _card_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what visionlora wrote into a checkpoint."""
    card = checkpoint.get(CARD_KEY)
    if card is None:
        return None
    if not isinstance(card, dict) or not isinstance(card.get("kind"), str):
        raise ValueError("expected visionlora's card to say what kind of file this is")
    return json.loads(json.dumps(card))


def _check_detector(model: Any, path: Path) -> None:
    task = str(getattr(model, "task", None) or type(model).__name__)
    if not isinstance(model, DetectionModel | ClassificationModel) or task not in TASKS:
        raise ModelError(
            f"{path}: expected a detection checkpoint, or one for segment, pose, obb or classify, got one for "
            f"{task}; give one such as yolo11n.pt"
        )
    head = model.model[-1]
    if type(head) not in HEADS[str(task)]:
        supported = "YOLOv5u, YOLOv8, YOLOv9, YOLOv10, YOLO11, YOLO12 or YOLO26"
        supported = supported if task == "detect" else "YOLOv8, YOLO11, YOLO12 or YOLO26"
        raise ModelError(
            f"{path}: its head is {type(head).__name__}; supported for {task} are the detectors of {supported}"
        )
    if model.is_fused() or getattr(head, "cv2", head) is None:
        raise ModelError(f"{path}: its batch normalization is fused already; give the checkpoint as it was trained")


@contextlib.contextmanager
def quiet(logger_level: int = 40) -> Iterator[None]:
    """Hold back Ultralytics' log lines below `logger_level` (40: errors only)."""
    before = LOGGER.level
    LOGGER.setLevel(logger_level)
    try:
        yield
    finally:
        LOGGER.setLevel(before)


def sample_pictures() -> tuple[Path, ...]:
    """Return the photographs that the Ultralytics package carries."""
    return tuple(sorted(Path(ASSETS).glob("*.jpg")))
