"""Training an adapter: data set + base + settings -> adapter file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.data import Dataset, load_dataset
from visionlora.errors import UsageError
from visionlora.phase import (
    ACTIVATION_FOLDER,
    FLOAT_FOLDER,
    Phase,
    clear_run,
    has_progress,
    refuse_earlier_run,
    run_folders,
    run_phase,
    warn_of_doubtful_data,
)
from visionlora.quantization.leak import calibration_images
from visionlora.quantization.scheme import WEIGHTS
from visionlora.stages import clear_later_stages, refuse_clearing
from visionlora.yolo import Base, check_image_size, check_targets, load_base
from visionlora.yolo.hyperparameters import (
    RECIPE,
    check_batch,
    check_device,
    check_hyperparameters,
    check_precision,
    default_device,
    memory_cache,
    process_count,
)
from visionlora.yolo.job import ADAPTER_FILE

INT8_FOLDER = "int8"
TITLES = {FLOAT_FOLDER: "float", ACTIVATION_FOLDER: "ReLU in place of SiLU", INT8_FOLDER: "the arithmetic that ships"}
_FAR = 0.8  # of the score before a part; below, something is unfinished
_LOGGER = logging.getLogger("visionlora")
INT8_RECIPE: Mapping[str, Any] = {"warmup_epochs": 0}  # it goes on from a trained adapter
QAT_EPOCHS = 10
QAT_RATES: Mapping[str, float] = {"int8": 0.0002, "int4": 0.001}
"""Learning rates of the second part, by what the weights become."""
RANGES = ("learned", "fixed")


@dataclass(frozen=True)
class TrainedAdapter:
    """What a training left behind.

    Attributes:
        path: the adapter file.
        names: its classes.
        epoch: the epoch that it is from, the best on the validation images; from 1.
        map50_95, map50: its scores there, as `evaluate` counts them.
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
    quantize: str | None = None,
    qat_epochs: int = QAT_EPOCHS,
    qat_lr0: float | None = None,
    ranges: str = "learned",
    distill: float | None = None,
    activation: str = "silu",
    adapter: Path | str | None = None,
    images: int = 32,
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
        batch: images a step, over all devices, which must divide it.
        device: `cpu`, `0`, `0,1`; the first GPU if there is one, else the CPU, if None.
        seed: of everything drawn at random.
        lr0: learning rate after warm-up.
        lean: keep less of each step in memory and compute it again: less memory for more time (see docs/training.md).
        quantize: `int8` trains on, after training in float, as the int8 file will compute (see docs/qalora.md); the
            adapter then keeps the ranges. `int4` does so for a file with int4 weights. None does not.
        qat_epochs, qat_lr0: length and learning rate of that second part; if None, 0.0002 for int8, 0.001 for int4.
        ranges: `learned` trains the ranges of the activations too, `fixed` keeps the calibrated ones.
        distill: how much the float model's predictions count beside the labels in the second part, and where
            activations are replaced; 0 for not at all. None is 1 where activations are replaced or weights become int4,
            and 0 for plain int8, where it was measured to bring nothing and takes a fifth more time.
        activation: `silu` keeps the base's; `relu`, or `relu:TARGETS` for some layers, replaces SiLU by ReLU, which
            costs nothing in int8: after training in float, as many epochs again bring the accuracy back. It needs
            thousands of updates: a few epochs of a small set leave it far behind.
        adapter: a float adapter of this shape to go on with instead of training one first.
        images: training images that calibrate the ranges int8 training begins with.
        hyperparameters: any other of Ultralytics' training hyperparameters, such as `{"mosaic": 0.5}`.
        resume: go on with an interrupted run in `out`, begun with the same settings; a finished one is left as it is.
        overwrite: replace an earlier run in `out`; what `adapt` made of it there is removed too.

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
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: the first keeps an earlier run, the second removes it; give one")
    if images < 1:
        raise UsageError(f"--images: expected at least 1 calibration image, got {images}")
    extra = check_hyperparameters(hyperparameters or {})
    _check_numbers(epochs=epochs, batch=batch, seed=seed, lr0=lr0)
    settings = AdapterSettings(rank=rank, alpha=alpha, targets=targets, activation=activation)
    start = None if adapter is None else _checked_start(Path(adapter), settings)
    if distill and not (quantize or settings.relu_targets):
        raise UsageError("--distill: only with --quantize or --activation; add one of them or drop it")
    if distill is None:
        distill = 1.0 if settings.relu_targets or quantize == "int4" else 0.0
    _check_ways(quantize=quantize, ranges=ranges, distill=distill, start=start, settings=settings)
    if quantize is None and (qat_epochs, qat_lr0, ranges) != (QAT_EPOCHS, None, RANGES[0]):
        raise UsageError("--qat-epochs, --qat-lr0 and --ranges: only with --quantize int8 or int4; add it or drop them")
    qat_lr0 = QAT_RATES[quantize or "int8"] if qat_lr0 is None else qat_lr0
    _check_numbers(epochs=qat_epochs, batch=batch, seed=seed, lr0=qat_lr0)
    device = check_device(device or default_device())
    check_batch(batch, device)
    check_precision(extra.get("amp"), device)
    _check_step(extra, lean=lean, quantize=quantize, distill=distill, device=device, settings=settings)
    out = Path(out)
    if not resume:
        refuse_earlier_run(out, overwrite=overwrite)
    base = load_base(model)
    check_image_size(imgsz, base.model)
    dataset = load_dataset(data)
    if start is not None:
        _check_belongs(start, base, dataset)
    shown = calibration_images(dataset, images, seed=seed) if quantize else ()  # refused now, not after the float part
    warn_of_doubtful_data(dataset)
    check_targets(base.model, dataset.names, settings)
    pictures = sum(len(dataset.split(split)) for split in ("train", "val"))
    cache = memory_cache(pictures, imgsz, processes=process_count(device))
    chosen = {**RECIPE, "nbs": batch, "cache": cache, **extra}
    chosen |= {"epochs": epochs, "imgsz": imgsz, "batch": batch, "seed": seed, "lr0": lr0}
    phases = _float_phases(settings, start, chosen, lean=lean, distill=distill)
    if quantize:
        second = {**chosen, **INT8_RECIPE, "close_mosaic": max(qat_epochs // 2, 1), **extra}
        second |= {"epochs": qat_epochs, "lr0": qat_lr0}
        int8 = Phase(settings, second, quantize=quantize, distill=distill, images=shown, learned=ranges == "learned")
        phases.append((INT8_FOLDER, int8))
    if not phases:
        raise UsageError(f"--adapter {start}: it has --activation {activation} already; give --quantize to train it on")
    if resume:
        _check_parts(out, [folder for folder, _ in phases])
    else:
        _clear_folders(out, base, start, overwrite=overwrite)
    try:
        _run_phases(base, dataset, out, phases, start=start, device=device, resume=resume)
    except KeyboardInterrupt:
        if any(map(has_progress, run_folders(out))):
            _LOGGER.warning("%s: finished epochs are kept; the same command with --resume goes on behind them", out)
        raise
    return _summary(out / ADAPTER_FILE, seconds=time.monotonic() - started)


def _float_phases(
    settings: AdapterSettings, start: Path | None, hyperparameters: Mapping[str, Any], *, lean: bool, distill: float
) -> list[tuple[str, Phase]]:
    """Return the parts that train in float, each with its folder: what `start` does not have yet."""
    phases = []
    if start is None:
        phases.append((FLOAT_FOLDER, Phase(replace(settings, activation="silu"), hyperparameters, lean=lean)))
    if settings.relu_targets and not (start and read_adapter_card(start).settings == settings):
        phases.append((ACTIVATION_FOLDER, Phase(settings, hyperparameters, lean=lean, distill=distill)))
    return phases


def _check_parts(out: Path, parts: Sequence[str]) -> None:
    """Refuse to go on with a run that has other parts than those asked for, before any of them is trained.

    Raises:
        UsageError: it has.
    """
    before = set(parts[:-1])  # the last part is in `out` itself
    found = {name for name in (FLOAT_FOLDER, ACTIVATION_FOLDER) if has_progress(out / name)}
    if found - before:
        raise UsageError(
            f"{out}: its run has the parts {', '.join(sorted(found))} before its last one, and these options ask for "
            f"{', '.join(parts[:-1]) or 'none'}; pass the --quantize and --activation that it began with"
        )
    if before and not found and has_progress(out) and FLOAT_FOLDER in before:
        raise UsageError(
            f"{out}: its run began without --quantize and --activation; give these with --adapter "
            f"{out / ADAPTER_FILE} and another --out, which goes on with its adapter"
        )


def _clear_folders(out: Path, base: Base, start: Path | None, *, overwrite: bool) -> None:
    """Remove all of an earlier run, before the first part begins.

    Raises:
        UsageError: the base or the adapter to go on with would be removed.
    """
    folders = run_folders(out)
    if start and start.resolve() in [(folder / ADAPTER_FILE).resolve() for folder in folders]:
        raise UsageError(f"--adapter {start}: --overwrite would remove it; copy it, or choose another --out")
    if overwrite:
        refuse_clearing(base.path, out)
        clear_later_stages(out)
    for folder in folders:
        clear_run(folder)


def _run_phases(
    base: Base,
    dataset: Dataset,
    out: Path,
    phases: Sequence[tuple[str, Phase]],
    *,
    start: Path | None,
    device: str,
    resume: bool,
) -> None:
    """Run phases one after another, each in its folder, the last one in `out`: its adapter is the result.

    Each goes on with the adapter of the one before; the first adapter that there is, a float one, teaches.
    """
    first = start
    score = None
    for number, (folder, phase) in enumerate(phases):
        here = out if number == len(phases) - 1 else out / folder
        if len(phases) > 1:
            part = f"part {number + 1} of {len(phases)}: {TITLES[folder]} (epochs: {phase.hyperparameters['epochs']})"
            phase = replace(phase, title=part)
        # Without the first part there is nothing to go on with; a later one may not have come to the end of an epoch.
        begun = resume and (number == 0 or has_progress(here))
        teacher = first if phase.distill > 0 else None
        start = run_phase(
            base, dataset, here, replace(phase, start=start, teacher=teacher), device=device, resume=begun
        )
        first = first or start
        before, score = score, read_adapter_card(start).scores.get("metrics/mAP50-95(B)")
        if before and score is not None and score < _FAR * before:
            _LOGGER.warning(
                "%s: mAP50-95 %.3f after %s, %.3f before; it needs more epochs", here, score, TITLES[folder], before
            )


def _checked_start(path: Path, settings: AdapterSettings) -> Path:
    """Return the adapter to go on with if it has the shape that was asked for."""
    own = read_adapter_card(path).settings
    wanted = {name: value for name, value in asdict(settings).items() if name != "activation"}
    differ = [
        f"{name} {getattr(own, name)!r}, not {value!r}" for name, value in wanted.items() if getattr(own, name) != value
    ]
    if differ:
        raise UsageError(f"--adapter {path}: it has {', '.join(differ)}; pass what it has")
    if own.activation not in ("silu", settings.activation):
        raise UsageError(f"--adapter {path}: it has --activation {own.activation}; pass the same")
    return path


def _check_belongs(path: Path, base: Base, dataset: Dataset) -> None:
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


def _check_ways(
    *, quantize: str | None, ranges: str, distill: float, start: Path | None, settings: AdapterSettings
) -> None:
    if quantize not in (None, *WEIGHTS):
        raise UsageError(f"--quantize: expected {' or '.join(WEIGHTS)}, got {quantize!r}")
    if ranges not in RANGES:
        raise UsageError(f"--ranges: expected {' or '.join(RANGES)}, got {ranges!r}")
    if not (math.isfinite(distill) and distill >= 0):
        raise UsageError(f"--distill: expected a number of at least 0, got {distill}")
    if start is not None and not (quantize or settings.relu_targets):
        raise UsageError("--adapter: goes on with an adapter for --quantize or --activation; give one of them")


def _check_step(
    extra: Mapping[str, Any],
    *,
    lean: bool,
    quantize: str | None,
    distill: float,
    device: str,
    settings: AdapterSettings,
) -> None:
    """Refuse what the step of a part could not do, before the first part is trained."""
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


def _check_numbers(*, epochs: int, batch: int, seed: int, lr0: float) -> None:
    for name, value in (("epochs", epochs), ("batch", batch), ("seed", seed)):
        if not isinstance(value, int):
            raise UsageError(f"--{name}: expected a whole number, got {value!r}")
    if epochs < 1 or batch < 1:
        raise UsageError(f"expected at least 1 epoch and 1 image a batch, got --epochs {epochs} and --batch {batch}")
    if seed < 0:
        raise UsageError(f"--seed: expected a whole number of at least 0, got {seed}")
    if not (math.isfinite(lr0) and lr0 > 0):
        raise UsageError(f"--lr0: expected a positive number, got {lr0}")


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
