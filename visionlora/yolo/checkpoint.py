"""Reading and writing Ultralytics detection checkpoints, and telling one base from another."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from ultralytics.utils import ASSETS, LOGGER, SETTINGS
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from visionlora.errors import ModelError

CARD_KEY = "visionlora"  # the entry of a checkpoint that holds our metadata as a plain dict


@dataclass(frozen=True)
class Base:
    """An Ultralytics detector as it was loaded: float32, eval mode, batch normalization in place.

    Attributes:
        model: the detection model.
        path: where it came from.
        names: class names in the order of the class outputs.
        image_size: pixels of the square that it was trained on.
        fingerprint: SHA-256 of its weights (see `fingerprint`).
        card: what visionlora wrote into the checkpoint, or None for a foreign one.
    """

    model: DetectionModel
    path: Path
    names: tuple[str, ...]
    image_size: int
    fingerprint: str
    card: Mapping[str, Any] | None = None


def load_base(path: Path | str) -> Base:
    """Load an Ultralytics detection checkpoint; a bare name such as `yolo11n.pt` is downloaded as Ultralytics does.

    Raises:
        ModelError: the file is missing, unreadable, of another task, of an unsupported head, or already fused.

    Example:
        >>> load_base("yolo11n.pt").names[:2]  # doctest: +SKIP
        ('person', 'bicycle')
    """
    path = Path(path)
    if not path.suffix:
        raise ModelError(f"{path}: expected an Ultralytics checkpoint (.pt); did you mean {path}.pt?")
    if path.suffix != ".pt":
        raise ModelError(f"{path}: expected an Ultralytics checkpoint (.pt), got a {path.suffix} file")
    if path.parent != Path(".") and not path.is_file():
        raise ModelError(f"{path}: no such file; give a checkpoint, or a bare name such as yolo11n.pt to download it")
    if not path.is_file() and not _is_published(path.name):
        raise ModelError(f"{path}: no such file, and no name of a published model such as yolo11n.pt; check --model")
    try:
        model, checkpoint = load_checkpoint(str(path))
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ModelError(f"{path}: cannot be read as an Ultralytics checkpoint: {reason}") from error
    _check_detector(model, path)
    image_size = checkpoint.get("train_args", {}).get("imgsz", 640)
    return Base(
        model=model,
        path=Path(getattr(model, "pt_path", path)),  # a bare name may lie in Ultralytics' folder of weights
        names=tuple(str(name) for _, name in sorted(dict(model.names).items())),
        image_size=int(max(image_size) if isinstance(image_size, (list, tuple)) else image_size),
        fingerprint=fingerprint(model),
        card=checkpoint.get(CARD_KEY),
    )


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights: names, shapes and float32 values, without counters.

    A checkpoint stored in half precision has the fingerprint of the same weights stored in float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def pack_checkpoint(base: Base, *, image_size: int, card: Mapping[str, Any]) -> bytes:
    """Return `base.model` as the bytes of an ordinary Ultralytics checkpoint in float32, with `card` in its own entry.

    `YOLO(path)` loads, validates, exports and fine-tunes such a file; Ultralytics ignores the extra entry.
    """
    model = copy.deepcopy(base.model).cpu().float().eval()
    model.args = {"task": "detect", "imgsz": image_size, "model": base.path.name}
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


def pack(content: object) -> bytes:
    """Return what `torch.save` would write, so that a full disk is met where files are written."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a training gives."""
    return {package: version(package) for package in ("torch", "torchvision", "ultralytics", "numpy")}


_UNREADABLE = (
    OSError,
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
    RuntimeError,
    EOFError,
    ImportError,
    pickle.UnpicklingError,
)


def _is_published(name: str) -> bool:
    """Whether Ultralytics finds a bare name: in its folder of weights, or among those that it downloads."""
    name = check_yolov5u_filename(name, verbose=False)
    return name in GITHUB_ASSETS_NAMES or (Path(SETTINGS["weights_dir"]) / name).is_file()


def _check_detector(model: nn.Module, path: Path) -> None:
    task = getattr(model, "task", None)
    if not isinstance(model, DetectionModel) or task != "detect":
        raise ModelError(f"{path}: expected a detection checkpoint, got one for {task or type(model).__name__}")
    head = model.model[-1]
    if type(head) not in (Detect, v10Detect):
        supported = "YOLOv5u, YOLOv8, YOLOv9, YOLOv10, YOLO11, YOLO12 or YOLO26"
        raise ModelError(f"{path}: its head is {type(head).__name__}; supported are the detectors of {supported}")
    if model.is_fused() or head.cv2 is None:
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
