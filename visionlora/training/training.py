"""Training an adapter: data set + base + settings -> adapter file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.methods import LoRA
from visionlora.data import Dataset, load_dataset
from visionlora.data.leakage import calibration_images
from visionlora.detectors.ultralytics import Base, check_image_size, check_targets, load_base
from visionlora.detectors.ultralytics.hyperparameters import (
    RECIPE,
    check_batch,
    check_device,
    check_hyperparameters,
    check_learning_rate,
    check_precision,
    default_device,
    memory_cache,
    process_count,
)
from visionlora.detectors.ultralytics.job import ADAPTER_FILE
from visionlora.errors import UsageError
from visionlora.files import exclusive
from visionlora.formats.text import is_unicode
from visionlora.progress import LEVELS
from visionlora.training.earlier import replacing, settle
from visionlora.training.phase import (
    ACTIVATION_FOLDER,
    FLOAT_FOLDER,
    Phase,
    clear_partials,
    has_progress,
    refuse_earlier_run,
    run_folders,
    run_phase,
    warn_of_doubtful_data,
)
from visionlora.training.run_folder import refuse_clearing
from visionlora.training.settings import (
    MAX_SEED,
    RANGES,
    check_belongs,
    check_count,
    check_step,
    check_ways,
    checked_start,
)

INT8_FOLDER = "int8"
TITLES = {FLOAT_FOLDER: "float", ACTIVATION_FOLDER: "ReLU in place of SiLU", INT8_FOLDER: "the arithmetic that ships"}
_FAR = 0.8  # of the score before a part; below, something is unfinished
_LOGGER = logging.getLogger("visionlora")
INT8_RECIPE: Mapping[str, Any] = {"warmup_epochs": 0}  # it goes on from a trained adapter
QAT_EPOCHS = 10
QAT_RATES: Mapping[str, float] = {"int8": 0.0002, "int4": 0.001}
"""Learning rates of the second part, by what the weights become."""
_NOT_LAST = "another part goes on from this one, and a run gets more epochs in its last part only"
_FADES = "ReLU comes in step by step over its epochs"


@dataclass(frozen=True, repr=False)
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

    def __str__(self) -> str:
        scores = f"val mAP50-95 {self.map50_95:.3f}, mAP50 {self.map50:.3f}"
        size = f"{self.bytes / 1e6:.2f} MB, {len(self.names)} classes"
        return f"{self.path}: {size}, from epoch {self.epoch} with {scores}; {self.seconds:.0f} s"

    def __repr__(self) -> str:
        return f"TrainedAdapter({self})"


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
    verbose: bool = False,
    quiet: bool = False,
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
        device: `cpu`, `0`, `0,1`, or torch's `cuda:0`; the first GPU if there is one, else the CPU, if None.
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
        resume: go on with a run in `out`, begun with the same settings; a finished one is left as it is, or goes on if
            `epochs` is more than it had (with `quantize`: `qat_epochs`).
        overwrite: replace an earlier run in `out`, and what `adapt` made of it there; it is kept until the new one has
            saved an epoch.
        verbose: print all that Ultralytics says too.
        quiet: print nothing but warnings.

    Raises:
        UsageError: a setting is wrong in itself or with another, or differs from the run to resume.
        DataError, ModelError: the data set or the base cannot be used.
        OutputError: `out` holds a run already, or another process writes there.
        VisionLoraError: the loss became infinite, or a step does not fit into memory.

    Example:
        >>> import visionlora as vl
        >>> vl.train("yolo11n.pt", "data.yaml", "runs/steel", rank=8, epochs=40, imgsz=320)  # doctest: +SKIP
    """
    started = time.monotonic()
    _check_unicode(model=model, data=data, out=out)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: the first keeps an earlier run, the second removes it; give one")
    if verbose and quiet:
        raise UsageError("--verbose and --quiet: the first says more, the second nothing; give one")
    console = LEVELS[1 + verbose - quiet]
    for option, count in (("--epochs", epochs), ("--batch", batch), ("--images", images), ("--qat-epochs", qat_epochs)):
        check_count(count, option)
    check_count(imgsz, "--imgsz")
    check_count(seed, "--seed", least=0, most=MAX_SEED)
    lr0 = check_learning_rate(lr0, "--lr0")
    extra = check_hyperparameters(hyperparameters or {})
    settings = AdapterSettings(LoRA(rank, alpha), targets=targets, activation=activation)
    start = None if adapter is None else checked_start(Path(adapter), settings)
    if distill and not (quantize or settings.relu_targets):
        raise UsageError("--distill: only with --quantize or --activation; add one of them or drop it")
    if distill is None:
        distill = 1.0 if settings.relu_targets or quantize == "int4" else 0.0
    check_ways(quantize=quantize, ranges=ranges, distill=distill, start=start, settings=settings)
    if quantize is None and (qat_epochs, qat_lr0, ranges) != (QAT_EPOCHS, None, RANGES[0]):
        raise UsageError("--qat-epochs, --qat-lr0 and --ranges: only with --quantize int8 or int4; add it or drop them")
    qat_lr0 = QAT_RATES[quantize or "int8"] if qat_lr0 is None else check_learning_rate(qat_lr0, "--qat-lr0")
    device = check_device(default_device() if device is None else device)
    check_batch(batch, device)
    check_precision(extra.get("amp"), device)
    check_step(extra, lean=lean, quantize=quantize, distill=distill, device=device, settings=settings)
    out = Path(out)
    with exclusive(out):
        settle(out)
        clear_partials(out)
        if not resume:
            refuse_earlier_run(out, overwrite=overwrite)
        base = load_base(model)
        check_image_size(imgsz, base.model)
        dataset = load_dataset(data, task=base.task)
        if start is not None:
            check_belongs(start, base, dataset)
        shown = calibration_images(dataset, images, seed=seed) if quantize else ()  # refused now, not after a part
        warn_of_doubtful_data(dataset)
        _warn_of_large_batch(dataset, batch)
        check_targets(base.model, dataset.names, settings)
        pictures = sum(len(dataset.split(split)) for split in ("train", "val"))
        cache = memory_cache(pictures, imgsz, processes=process_count(device))
        chosen = {**RECIPE, "nbs": batch, "cache": cache, **extra}
        chosen |= {"epochs": epochs, "imgsz": imgsz, "batch": batch, "seed": seed, "lr0": lr0}
        phases = _float_phases(settings, start, chosen, lean=lean, distill=distill)
        if quantize:
            second = {**chosen, **INT8_RECIPE, "close_mosaic": max(qat_epochs // 2, 1), **extra}
            second |= {"epochs": qat_epochs, "lr0": qat_lr0}
            int8 = Phase(
                settings, second, quantize=quantize, distill=distill, images=shown, learned=ranges == "learned"
            )
            phases.append((INT8_FOLDER, int8))
        if not phases:
            raise UsageError(
                f"--adapter {start}: it has --activation {activation} already; give --quantize to train it on"
            )
        if resume:
            _check_parts(out, [folder for folder, _ in phases])
        else:
            _check_kept(out, base, start, overwrite=overwrite)
        with nullcontext() if resume else replacing(out, stages=overwrite), _telling_what_is_kept(out):
            _run_phases(base, dataset, out, phases, start=start, device=device, resume=resume, console=console)
        return _summary(out / ADAPTER_FILE, seconds=time.monotonic() - started)


def _check_unicode(**paths: Path | str | None) -> None:
    """Refuse paths that no card and no settings file can hold, before an epoch is lost with them.

    Raises:
        UsageError: one is no UTF-8.
    """
    for option, path in paths.items():
        if path is not None and not is_unicode(str(Path(path).absolute())):
            raise UsageError(f"--{option} {path}: expected a path in UTF-8, for it is written into files; rename it")


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


def _check_kept(out: Path, base: Base, start: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace what the new run begins with.

    Raises:
        UsageError: the base or the adapter to go on with would be replaced.
    """
    if start and start.resolve() in [(folder / ADAPTER_FILE).resolve() for folder in run_folders(out)]:
        raise UsageError(f"--adapter {start}: --overwrite would remove it; copy it, or choose another --out")
    if overwrite:
        refuse_clearing(base.path, out)


def _warn_of_large_batch(dataset: Dataset, batch: int) -> None:
    count = len(dataset.split("train"))
    if batch > count:
        _LOGGER.warning("--batch %d: train has %d pictures; a step takes all of them, and is one epoch", batch, count)


@contextmanager
def _telling_what_is_kept(out: Path) -> Iterator[None]:
    """Say how to go on where the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if any(map(has_progress, run_folders(out))):
            _LOGGER.warning("%s: finished epochs are kept; the same command with --resume goes on behind them", out)
        raise


def _run_phases(
    base: Base,
    dataset: Dataset,
    out: Path,
    phases: Sequence[tuple[str, Phase]],
    *,
    start: Path | None,
    device: str,
    resume: bool,
    console: str,
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
        fixed = _FADES if folder == ACTIVATION_FOLDER else ""
        phase = replace(phase, fixed=fixed if number == len(phases) - 1 else _NOT_LAST, console=console)
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
