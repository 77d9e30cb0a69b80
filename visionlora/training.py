"""Training an adapter: data set + base + settings -> adapter file."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.cards import preprocessing_card
from visionlora.curves import draw_curves
from visionlora.data import Dataset, content_hash, load_dataset
from visionlora.errors import OutputError, UsageError
from visionlora.files import atomic_output
from visionlora.yolo import check_image_size, load_base
from visionlora.yolo.checkpoint import versions
from visionlora.yolo.trainer import (
    ADAPTER_FILE,
    RESULTS_FILE,
    RESUME_FILE,
    TrainingJob,
    hyperparameter_names,
    memory_cache,
    run_job,
)

SETTINGS_FILE, CURVES_FILE = "training.json", "curves.png"

# The recipe: what differs from Ultralytics' defaults; measured in benchmarks/accuracy.
RECIPE: Mapping[str, Any] = {
    "optimizer": "AdamW",  # with frozen batch normalization; Ultralytics' `auto` would ignore lr0
    "warmup_bias_lr": 0.0,  # biases are deltas on a trained model: nothing to rush
}
_OWN = {  # hyperparameters that --set refuses, and why
    "batch": "use --batch",
    "classes": "choose classes in data.yaml",
    "data": "use --data",
    "device": "use --device",
    "distill_model": "an adapter is trained without a teacher",
    "epochs": "use --epochs",
    "exist_ok": "use --overwrite",
    "freeze": "use --targets: everything but the adapter is frozen",
    "imgsz": "use --imgsz",
    "lr0": "use --lr0",
    "mode": "this is training",
    "model": "use --model",
    "name": "use --out",
    "plots": "the curves are drawn after training",
    "pretrained": "the base is --model",
    "project": "use --out",
    "quantize": "use visionlora quantize",
    "rect": "training batches are shuffled squares",
    "resume": "use --resume",
    "save": "the adapter is always saved",
    "save_dir": "use --out",
    "seed": "use --seed",
    "single_cls": "name one class in data.yaml",
    "task": "the task is detection",
    "val": "validation chooses the adapter that is kept",
}


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
        hyperparameters: any other of Ultralytics' training hyperparameters, such as `{"mosaic": 0.5}`.
        resume: go on with an interrupted run in `out`, started with the same settings.
        overwrite: replace an earlier run in `out`.

    Raises:
        UsageError: a setting is wrong in itself, or differs from the run to resume.
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
    _check_numbers(epochs=epochs, batch=batch, lr0=lr0)
    out = Path(out)
    if not resume:
        refuse_earlier_run(out, overwrite=overwrite)
    base = load_base(model)
    check_image_size(imgsz, base.model)
    dataset = load_dataset(data)
    device = device or default_device()
    asked: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "adapter": asdict(settings),
        "hyperparameters": {
            **RECIPE,
            "nbs": batch,
            "cache": memory_cache(len(dataset.split("train")), imgsz),
            **extra,
            "epochs": epochs,
            "imgsz": imgsz,
            "batch": batch,
            "seed": seed,
            "lr0": lr0,
        },
    }
    job = TrainingJob(
        model=str(model),
        fingerprint=base.fingerprint,
        out=out.resolve(),
        names=dataset.names,
        images=_write_lists(dataset, out),
        settings=settings,
        preprocessing=preprocessing_card(imgsz),
        training=_record(asked, base.fingerprint, dataset, out, resume=resume),
        resume=resume,
    )
    run_job(job, {**asked["hyperparameters"], "device": device})
    (out / RESUME_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / "weights").rmdir()  # Ultralytics' folder, empty here
    draw_curves(out / RESULTS_FILE, out / CURVES_FILE)
    return _summary(out / ADAPTER_FILE, seconds=time.monotonic() - started)


def check_hyperparameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return `asked` if every name is one of Ultralytics' training hyperparameters that may be set.

    Raises:
        UsageError: a name is unknown (the nearest is named), or set by an option of its own.
    """
    known = hyperparameter_names()
    problems = []
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{name}: no such hyperparameter" + (f"; did you mean {near[0]}?" if near else ""))
        elif name in _OWN:
            problems.append(f"{name}: {_OWN[name]}")
    if problems:
        raise UsageError("--set " + "; ".join(problems))
    return dict(asked)


def default_device() -> str:
    """Return `0` where torch sees a GPU, else `cpu`."""
    import torch

    return "0" if torch.cuda.is_available() else "cpu"


def refuse_earlier_run(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a run, or clear that run's files.

    Raises:
        OutputError: there is one and `overwrite` is false.
    """
    files = [out / name for name in (ADAPTER_FILE, RESUME_FILE, RESULTS_FILE, SETTINGS_FILE, CURVES_FILE)]
    present = [file for file in files if file.exists()]
    if present and not overwrite:
        raise OutputError(
            f"{out}: holds a training run already ({present[0].name}); "
            "choose another --out, or pass --overwrite, or --resume to go on with it"
        )
    for file in present:
        file.unlink()


def _check_numbers(*, epochs: int, batch: int, lr0: float) -> None:
    if epochs < 1 or batch < 1:
        raise UsageError(f"expected at least 1 epoch and 1 image a batch, got --epochs {epochs} and --batch {batch}")
    if not (math.isfinite(lr0) and lr0 > 0):
        raise UsageError(f"--lr0: expected a positive number, got {lr0}")


def _write_lists(dataset: Dataset, out: Path) -> dict[str, Path]:
    """Write the images of each split as a list that Ultralytics reads; return the paths of the lists."""
    lists = {split: out.resolve() / f"{split}.txt" for split in ("train", "val")}
    for split, path in lists.items():
        with atomic_output(path) as partial:
            partial.write_text("".join(f"{image.path.resolve()}\n" for image in dataset.split(split)), encoding="utf-8")
    return lists


def _record(asked: dict, fingerprint: str, dataset: Dataset, out: Path, *, resume: bool) -> dict[str, Any]:
    """Write the run's settings into `out`, or compare them to what is written there when resuming."""
    data = {split: content_hash(dataset.split(split)) for split in ("train", "val")}
    record = json.loads(json.dumps({**asked, "base": fingerprint, "data_sha256": data, "versions": versions()}))
    path = out / SETTINGS_FILE
    if not resume:
        with atomic_output(path) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return record
    if not path.is_file():
        raise UsageError(f"{out}: no run to resume: it has no {SETTINGS_FILE}; train without --resume")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"{name}: was {old}, now {new}"
        for name, old, new in _differences(before, record)
        if not name.startswith(("versions", "hyperparameters.cache"))
    ]
    if changed:
        raise UsageError(f"{out}: resume with the settings that the run began with; " + "; ".join(changed))
    return record


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
