"""Training an adapter: data set + base + settings -> adapter file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.factors import FactorTraining
from visionlora.adapters.methods import method_for
from visionlora.data import load_dataset, warn_of_doubtful_data
from visionlora.data.leakage import calibration_images
from visionlora.detectors import family_of
from visionlora.detectors.device import process_count
from visionlora.detectors.family import Base
from visionlora.errors import UsageError
from visionlora.files import exclusive
from visionlora.formats.kinds import ADAPTER, CHECKPOINT
from visionlora.formats.text import class_words, is_unicode, size_words
from visionlora.hub import local_file
from visionlora.progress import LEVELS, level, report
from visionlora.scoring import NEXT_TO_NOTHING
from visionlora.tasks import OfBoxes
from visionlora.training.batching import with_batch
from visionlora.training.choosing import under_recipe
from visionlora.training.earlier import replacing, settle
from visionlora.training.phase import TITLES, Phase, Run, plan_phases, run_phase
from visionlora.training.recipes import RecipeChoice
from visionlora.training.record import read_record
from visionlora.training.run_folder import FLOAT, RunFolder
from visionlora.training.settings import AUTO_BATCH, QAT_EPOCHS, QatSettings, Schedule, TrainingSettings
from visionlora.training.target import with_task

_FAR = 0.8  # of the score before a phase; below, something is unfinished
_LOGGER = logging.getLogger("visionlora")


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
        score_words: what the two scores are called, see `Task`.
    """

    path: Path
    names: tuple[str, ...]
    epoch: int
    map50_95: float
    map50: float
    bytes: int
    seconds: float
    score_words: tuple[str, str, str] = OfBoxes.score_words

    def __str__(self) -> str:
        mean, other, _ = self.score_words
        scores = f"val {mean} {self.map50_95:.3f}, {other} {self.map50:.3f}"
        size = f"{size_words(self.bytes)}, {class_words(len(self.names))}"
        return f"{self.path}: {size}, from epoch {self.epoch} with {scores}; {self.seconds:.0f} s"

    def __repr__(self) -> str:
        return f"TrainedAdapter({self})"


def train(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    task: str | None = None,
    method: str = "lora",
    rank: int | None = None,
    alpha: float | None = None,
    block_size: int | None = None,
    form: str | None = None,
    border: int | None = None,
    tokens: int | None = None,
    start: str = "default",
    lora_plus: float = 1.0,
    recipe: str = "auto",
    budget: str | int | None = None,
    targets: str = "all",
    base_precision: str = "float32",
    epochs: int = 50,
    imgsz: int | None = None,
    batch: int | str = 16,
    device: str | None = None,
    seed: int = 0,
    lr0: float | None = None,
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
        model: checkpoint (.pt, .pth) of a detector, or a bare name such as `yolo11n.pt` or
            `torchvision:fcos_resnet50_fpn` (docs/families.md).
        data: data.yaml with a train and a val split.
        out: folder of the run.
        task: `detect`, `segment`, `pose` or `obb`; None for the model's. The backbone, the neck and the branches of
            boxes and classes of a detection model serve all of them; what their heads have beside begins untrained.
        method: how a weight is adapted, one of `METHODS`.
        rank, alpha: settings of the method; None for its own, 8 for LoRA, and for the recipe's.
        block_size: setting of OFT: inputs that turn into each other; None for 32.
        form, border, tokens: of `conv-adapter`, the prompts and `prefix` (docs/methods.md); None for their own.
        start: what the factor A of LoRA and DoRA begins with, where B is zero: `default` draws it; `principal` takes
            the directions of the weight's largest singular values; `gradient` those in which full fine-tuning would
            go, from the first batches (see docs/methods.md).
        lora_plus: how many times the learning rate of A that of B is, as in LoRA+; 1 for the same.
        recipe: `near` leaves the base's batch normalization as it is; `far` trains it, and small layers at full rank,
            for pictures unlike all that the base has seen; `auto` chooses by the training pictures (docs/training.md).
        budget: train up to so many parameters, such as `20%` of the detector's, by adapting the small layers at full
            rank; None for what the recipe says.
        targets: which layers are adapted (see `AdapterSettings`).
        base_precision: what the frozen weights are kept in: `float32`, `fp16`, `int8`, or `nf4`, 4 bits, as in QLoRA
            (see docs/training.md). The adapter belongs to the rounded base, which is what merging starts from.
        epochs: passes over the training images.
        imgsz: side of the network's square input in pixels; that which the model was trained at if None.
        batch: images a step, over all devices, which must divide it; `auto` finds the largest up to 64 that fits into
            a GPU's memory (see docs/training.md).
        device: `cpu`, `0`, `0,1`, or torch's `cuda:0`; the first GPU if there is one, else the CPU, if None.
        seed: of everything drawn at random.
        lr0: learning rate after warm-up; None for the recipe's, 0.001 or 0.002.
        lean: keep less of each step in memory and compute it again: less memory for more time (see docs/training.md).
        quantize: `int8` trains on, after training in float, as the int8 file will compute (see docs/qalora.md); the
            adapter then keeps the ranges. `int4` does so for a file with int4 weights. None does not.
        qat_epochs, qat_lr0: length and learning rate of that second phase; if None, 0.0002 for int8, 0.001 for int4.
        ranges: `learned` trains the ranges of the activations too, `fixed` keeps the calibrated ones.
        distill: how much the float model's predictions count beside the labels in the second phase, and where
            activations are replaced; 0 for not at all. None is 1 where activations are replaced or weights become int4,
            and 0 for plain int8, where it was measured to bring nothing and takes a fifth more time.
        activation: `silu` keeps the base's; `relu`, or `relu:TARGETS` for some layers, replaces SiLU by ReLU, which
            costs nothing in int8: after training in float, as many epochs again bring the accuracy back. It needs
            thousands of updates: a few epochs of a small set leave it far behind.
        adapter: a float adapter of this shape to go on with instead of training one first.
        images: training images that calibrate the ranges int8 training begins with.
        hyperparameters: any other of the training hyperparameters of its family, such as `{"mosaic": 0.5}`.
        resume: go on with a run in `out`, begun with the same settings; a finished one is left as it is, or goes on if
            `epochs` is more than it had (with `quantize`: `qat_epochs`).
        overwrite: replace an earlier run in `out`, and what `adapt` made of it there; it is kept until the new one has
            saved an epoch.
        verbose: print all that Ultralytics says too.
        quiet: print nothing but warnings.

    Raises:
        UsageError: a setting is wrong in itself, with another or with the pictures, or differs from the run to resume.
        DataError, ModelError: the data set or the base cannot be used.
        OutputError: `out` holds a run already, or another process writes there.
        VisionLoraError: the loss stays infinite at an eighth of the learning rate, or a step does not fit into memory.

    Example:
        >>> import visionlora as vl
        >>> vl.train("yolo11n.pt", "data.yaml", "runs/steel", rank=8, epochs=40, imgsz=320)  # doctest: +SKIP
    """
    call = RunCall.asked(resume=resume, overwrite=overwrite, verbose=verbose, quiet=quiet)
    model = local_file(model, CHECKPOINT)
    own = {"rank": rank, "alpha": alpha, "block_size": block_size, "form": form, "border": border, "tokens": tokens}
    chosen = method_for(method, own, imgsz=imgsz or Schedule.imgsz)
    settings = TrainingSettings(
        family_of(model),
        AdapterSettings(chosen, targets=targets, activation=activation, base_precision=base_precision),
        Schedule.asked(epochs=epochs, imgsz=imgsz, batch=batch, seed=seed, lr0=lr0),
        hyperparameters or {},
        device=device,
        qat=QatSettings.asked(quantize, epochs=qat_epochs, lr0=qat_lr0, ranges=ranges),
        distill=distill,
        lean=lean,
        factors=FactorTraining(start, lora_plus),
        start=None if adapter is None else Path(local_file(adapter, ADAPTER)),
        images=images,
        recipe=RecipeChoice(recipe, alpha=alpha, lr0=lr0, budget=budget),
        auto_batch=batch == AUTO_BATCH,
        task=task,
    )
    if imgsz is None:
        settings = settings.at_size_of(model)
    trained = run_training(model, data, out, settings, call)
    warn_of_little(trained)
    return trained


@dataclass(frozen=True)
class RunCall:
    """What is to become of an earlier run in the folder, and how much is said.

    Attributes:
        resume: go on with it.
        overwrite: replace it.
        console: one of `visionlora.progress.LEVELS`.
        calibrates: a stage after training calibrates on its images; what speaks against that is said before it.
    """

    resume: bool = False
    overwrite: bool = False
    console: str = LEVELS[1]
    calibrates: bool = False

    @classmethod
    def asked(cls, *, resume: bool, overwrite: bool, verbose: bool, quiet: bool) -> RunCall:
        """Return what the keywords of `train` mean.

        Raises:
            UsageError: two of them exclude each other.
        """
        if resume and overwrite:
            raise UsageError(
                "--resume and --overwrite: the first keeps an earlier run, the second removes it; give one"
            )
        if verbose and quiet:
            raise UsageError("--verbose and --quiet: the first says more, the second nothing; give one")
        return cls(resume, overwrite, LEVELS[1 + verbose - quiet])


def run_training(
    model: Path | str, data: Path | str, out: Path | str, settings: TrainingSettings, call: RunCall
) -> TrainedAdapter:
    """Train as `train` does, with settings that were checked."""
    started = time.monotonic()
    _check_unicode(model=model, data=data, out=out)
    folder = RunFolder(Path(out))
    family, schedule = settings.family, settings.schedule
    with level(call.console), exclusive(folder.path):
        settle(folder)
        folder.clear_partials()
        if not call.resume:
            folder.refuse_earlier_run(overwrite=call.overwrite)
        base = with_task(family, family.load(model), settings.task, data)
        family.check_image_size(schedule.imgsz, base)
        dataset = load_dataset(data, task=base.task)
        settings.check_belongs(base, dataset)
        begun = folder.first_record if call.resume else None
        record = None if begun is None else read_record(begun)
        settings, recipe = under_recipe(settings, base, dataset, record)
        settings, batch_sentence = with_batch(settings, base, dataset, record)
        schedule = settings.schedule
        calibrates = call.calibrates or settings.qat is not None
        images = calibration_images(dataset, settings.images, seed=schedule.seed) if calibrates else ()
        warn_of_doubtful_data(dataset, schedule.batch)
        report("train", 0, schedule.epochs, "\n".join(filter(None, (recipe.sentence, batch_sentence))))
        phases = plan_phases(settings)
        if call.resume:
            _check_phases(folder, phases)
        else:
            _check_kept(folder, base, settings.start, overwrite=call.overwrite)
        pictures = sum(len(dataset.split(split)) for split in ("train", "val"))
        processes = process_count(str(settings.device))
        chosen = family.hyperparameters(
            settings.hyperparameters, asdict(schedule), pictures=pictures, processes=processes
        )
        family.check_batches(base, chosen, pictures=len(dataset.split("train")), processes=processes)
        run = Run(settings, base, dataset, folder, chosen, images, recipe.record)
        with nullcontext() if call.resume else replacing(folder, stages=call.overwrite), _telling_what_is_kept(folder):
            _run_phases(run, phases, settings.start, resume=call.resume)
        return _summary(folder.adapter, seconds=time.monotonic() - started)


def warn_of_little(trained: TrainedAdapter) -> None:
    """Say at the end that an adapter is of no use yet, which its scores alone do not say to everyone."""
    if trained.map50_95 < NEXT_TO_NOTHING:
        _LOGGER.warning(
            "%s: %s %.3f: it has learned next to nothing yet; it needs more epochs",
            trained.path,
            trained.score_words[0],
            trained.map50_95,
        )


def _check_unicode(**paths: Path | str | None) -> None:
    """Refuse paths that no card and no settings file can hold, before an epoch is lost with them.

    Raises:
        UsageError: one is no UTF-8.
    """
    for option, path in paths.items():
        if path is not None and not is_unicode(str(Path(path).absolute())):
            raise UsageError(f"--{option} {path}: expected a path in UTF-8, for it is written into files; rename it")


def _check_phases(folder: RunFolder, phases: Sequence[Phase]) -> None:
    """Refuse to go on with a run that has other phases than those asked for, before any of them is trained.

    Raises:
        UsageError: it has.
    """
    before = [phase.kind for phase in phases[:-1]]
    found = {kind for kind, phase in folder.before.items() if phase.has_progress()}
    if found - set(before):
        raise UsageError(
            f"{folder.path}: its run has the phases {', '.join(sorted(found))} before its last one, and these options "
            f"ask for {', '.join(before) or 'none'}; pass the --quantize and --activation that it began with"
        )
    if before and not found and folder.last.has_progress() and FLOAT in before:
        raise UsageError(
            f"{folder.path}: its run began without --quantize and --activation; give these with --adapter "
            f"{folder.adapter} and another --out, which goes on with its adapter"
        )


def _check_kept(folder: RunFolder, base: Base, start: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace what the new run begins with.

    Raises:
        UsageError: the base or the adapter to go on with would be replaced.
    """
    if start and start.resolve() in [phase.adapter.resolve() for phase in folder.phases]:
        raise UsageError(f"--adapter {start}: --overwrite would remove it; copy it, or choose another --out")
    if overwrite:
        folder.refuse_as_base(base.path)


@contextmanager
def _telling_what_is_kept(folder: RunFolder) -> Iterator[None]:
    """Say how to go on where the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.has_progress():
            _LOGGER.warning(
                "%s: finished epochs are kept; the same command with --resume goes on behind them", folder.path
            )
        raise


def _run_phases(run: Run, phases: Sequence[Phase], start: Path | None, *, resume: bool) -> None:
    """Run phases one after another; the adapter of the last one is the result.

    Each goes on with the adapter of the one before; the first adapter that there is, a float one, teaches.
    """
    first, score = start, None
    for phase in phases:
        here = phase.folder(run.folder)
        # Without the first phase there is nothing to go on with; a later one may not have ended an epoch.
        begun = resume and (phase.number == 1 or here.has_progress())
        start = run_phase(run, phase, start=start, teacher=first if phase.distill > 0 else None, resume=begun)
        first = first or start
        before, score = score, read_adapter_card(start).scores.get(run.base.task.score_keys[0])
        if before and score is not None and score < _FAR * before:
            _LOGGER.warning(
                "%s: %s %.3f after %s, %.3f before; it needs more epochs",
                here.path,
                run.base.task.score_words[0],
                score,
                TITLES[phase.kind],
                before,
            )


def _summary(path: Path, *, seconds: float) -> TrainedAdapter:
    card = read_adapter_card(path)
    return TrainedAdapter(
        path=path,
        names=card.names,
        epoch=int(card.training["epoch"]),
        map50_95=card.scores[card.sized_task.score_keys[0]],
        map50=card.scores[card.sized_task.score_keys[1]],
        score_words=card.sized_task.score_words,
        bytes=path.stat().st_size,
        seconds=seconds,
    )
