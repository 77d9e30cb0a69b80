"""Training an adapter: data set + base + settings -> adapter file."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.cards import preprocessing_card
from visionlora.curves import draw_curves
from visionlora.data import Dataset, content_hash, find_shared_images, load_dataset
from visionlora.errors import OutputError, UsageError
from visionlora.files import atomic_output
from visionlora.yolo import check_image_size, check_targets, load_base
from visionlora.yolo.checkpoint import versions
from visionlora.yolo.hyperparameters import RECIPE, check_device, check_hyperparameters, default_device, memory_cache
from visionlora.yolo.trainer import (
    ADAPTER_FILE,
    RESULTS_FILE,
    RESUME_FILE,
    TrainingJob,
    read_resume_state,
    run_job,
)

_LOGGER = logging.getLogger("visionlora")
SETTINGS_FILE, CURVES_FILE = "training.json", "curves.png"
_RUN_FILES = (ADAPTER_FILE, RESUME_FILE, RESULTS_FILE, SETTINGS_FILE, CURVES_FILE)


@dataclass(frozen=True)
class TrainedAdapter:
    """What a training left behind.

    Attributes:
        path: the adapter file.
        names: its classes.
        epoch: the epoch that it is from, the best on the validation images; from 1.
        map50_95, map50: its scores there, by Ultralytics' validator while training.
        bytes: size of the file.
        seconds: wall time of this call.
    """

    path: Path
    names: tuple[str, ...]
    epoch: int
    map50_95: float
    map50: float
    bytes: int
    seconds: float


def train(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    rank: int = 8,
    alpha: float = 4.0,
    targets: str = "all",
    epochs: int = 50,
    imgsz: int = 640,
    batch: int = 16,
    device: str | None = None,
    seed: int = 0,
    lr0: float = 0.001,
    lean: bool = False,
    hyperparameters: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainedAdapter:
    """Train an adapter of `model` on `data` and leave `adapter.safetensors`, `results.csv` and curves in `out`.

    Args:
        model: Ultralytics detection checkpoint (.pt), or a bare name such as `yolo11n.pt`.
        data: data.yaml with a train and a val split.
        out: folder of the run.
        rank, alpha, targets: shape of the adapter (see `AdapterSettings`).
        epochs: passes over the training images.
        imgsz: side of the network's square input in pixels.
        batch: images a step, over all devices.
        device: `cpu`, `0`, `0,1`; the first GPU if there is one, else the CPU, if None.
        seed: of everything drawn at random.
        lr0: learning rate after warm-up.
        lean: keep less of each step in memory and compute it again: less memory for more time (see docs/training.md).
        hyperparameters: any other of Ultralytics' training hyperparameters, such as `{"mosaic": 0.5}`.
        resume: go on with an interrupted run in `out`, begun with the same settings; a finished one is left as it is.
        overwrite: replace an earlier run in `out`.

    Raises:
        UsageError: a setting is wrong in itself or with another, or differs from the run to resume.
        DataError, ModelError: the data set or the base cannot be used.
        OutputError: `out` holds a run already.
        VisionLoraError: the loss became infinite.

    Example:
        >>> import visionlora as vl
        >>> vl.train("yolo11n.pt", "data.yaml", "runs/steel", rank=8, epochs=40, imgsz=320)  # doctest: +SKIP
    """
    started = time.monotonic()
    settings = AdapterSettings(rank=rank, alpha=alpha, targets=targets)
    extra = check_hyperparameters(hyperparameters or {})
    _check_numbers(epochs=epochs, batch=batch, seed=seed, lr0=lr0)
    device = check_device(device or default_device())
    if lean and ("," in device or extra.get("compile")):
        raise UsageError("--lean: works on one device and without torch.compile; give one --device, or drop --lean")
    out = Path(out)
    if not resume:
        refuse_earlier_run(out, overwrite=overwrite)
    base = load_base(model)
    check_image_size(imgsz, base.model)
    dataset = load_dataset(data)
    _warn_of_doubtful_data(dataset)
    check_targets(base.model, dataset.names, settings)
    chosen = {
        **RECIPE,
        "nbs": batch,
        "cache": memory_cache(len(dataset.split("train")), imgsz),
        **extra,
        "epochs": epochs,
        "imgsz": imgsz,
        "batch": batch,
        "seed": seed,
        "lr0": lr0,
    }
    record = {
        "model": str(model),
        "data": str(data),
        "adapter": asdict(settings),
        "hyperparameters": chosen,
        "base": base.fingerprint,
        "data_sha256": {split: content_hash(dataset.split(split)) for split in ("train", "val")},
        "versions": versions(),
    }
    if not (resume and _is_finished(record, out)):
        if not resume:
            _begin(record, out)
        job = TrainingJob(
            model=str(model),
            fingerprint=base.fingerprint,
            out=out.resolve(),
            names=dataset.names,
            images=_write_lists(dataset, out),
            settings=settings,
            preprocessing=preprocessing_card(imgsz),
            training=record,
            resume=resume,
            lean=lean,
        )
        run_job(job, {**chosen, "device": device})
    draw_curves(out / RESULTS_FILE, out / CURVES_FILE)
    (out / RESUME_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / "weights").rmdir()  # Ultralytics' folder, empty here
    return _summary(out / ADAPTER_FILE, seconds=time.monotonic() - started)


def refuse_earlier_run(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a run.

    Raises:
        OutputError: it does and `overwrite` is false.
    """
    present = [name for name in _RUN_FILES if (out / name).exists()]
    if present and not overwrite:
        raise OutputError(
            f"{out}: holds a training run already ({present[0]}); "
            "choose another --out, or pass --overwrite, or --resume to go on with it"
        )


def _begin(record: Mapping[str, Any], out: Path) -> None:
    """Clear an earlier run's files and write the settings of this one."""
    for name in _RUN_FILES:
        (out / name).unlink(missing_ok=True)
    with atomic_output(out / SETTINGS_FILE) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _check_numbers(*, epochs: int, batch: int, seed: int, lr0: float) -> None:
    if epochs < 1 or batch < 1:
        raise UsageError(f"expected at least 1 epoch and 1 image a batch, got --epochs {epochs} and --batch {batch}")
    if seed < 0:
        raise UsageError(f"--seed: expected a whole number of at least 0, got {seed}")
    if not (math.isfinite(lr0) and lr0 > 0):
        raise UsageError(f"--lr0: expected a positive number, got {lr0}")


def _warn_of_doubtful_data(dataset: Dataset) -> None:
    """Log what a user would want to know before training, though nothing is wrong with a single file."""
    shared = find_shared_images(dataset.split("train"), dataset.split("val"))
    if shared:
        example = shared[0][1].path
        _LOGGER.warning("%d images of val are in train too, such as %s: the scores flatter", len(shared), example)
    for split in ("train", "val"):
        empty = dataset.classes_without_objects(split)
        if empty:
            _LOGGER.warning("%s shows no object of: %s", split, ", ".join(empty))


def _write_lists(dataset: Dataset, out: Path) -> dict[str, Path]:
    """Write the images of each split as a list that Ultralytics reads; return the paths of the lists."""
    lists = {split: out.resolve() / f"{split}.txt" for split in ("train", "val")}
    for split, path in lists.items():
        with atomic_output(path) as partial:
            partial.write_text("".join(f"{os.path.abspath(image.path)}\n" for image in dataset.split(split)), "utf-8")
    return lists


def _is_finished(record: Mapping[str, Any], out: Path) -> bool:
    """Compare the settings with those that the run to resume began with; return whether it has no epoch left.

    Raises:
        UsageError: there is no run in `out`, or a setting differs.
    """
    path = out / SETTINGS_FILE
    if not path.is_file() or not any((out / name).is_file() for name in (RESUME_FILE, ADAPTER_FILE)):
        raise UsageError(f"{out}: no run to resume: no epoch was finished there; train without --resume")
    record = json.loads(json.dumps(record))
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"{name}: was {old}, now {new}"
        for name, old, new in _differences(before, record)
        if not name.startswith(("versions", "hyperparameters.cache"))
    ]
    if changed:
        raise UsageError(f"{out}: resume with the settings that the run began with; " + "; ".join(changed))
    return not (out / RESUME_FILE).exists() or bool(read_resume_state(out / RESUME_FILE)["finished"])


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(before) + [key for key in now if key not in before]
        nested = [_differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [difference for differences in nested for difference in differences]
    return [] if before == now else [(name, before, now)]


def _summary(path: Path, *, seconds: float) -> TrainedAdapter:
    card = read_adapter_card(path)
    return TrainedAdapter(
        path=path,
        names=card.names,
        epoch=int(card.training["epoch"]),
        map50_95=card.scores["metrics/mAP50-95(B)"],
        map50=card.scores["metrics/mAP50(B)"],
        bytes=path.stat().st_size,
        seconds=seconds,
    )
