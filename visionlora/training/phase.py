"""One phase of a training: a base, a data set and settings -> an adapter file, resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.factors import STARTS, FactorTraining
from visionlora.adapters.torch import load_adapter
from visionlora.cards import preprocessing_card
from visionlora.data import Dataset, LabelledImage
from visionlora.detectors.family import Base
from visionlora.detectors.job import Int8Phase, TrainingJob
from visionlora.detectors.resume import read_resume_state, restore_results
from visionlora.errors import UsageError
from visionlora.exporting import write_graph
from visionlora.fake_quant import fake_quant_spec
from visionlora.int8 import QuantizationRecipe
from visionlora.progress import report
from visionlora.quantization import calibrate_detector, load_float_detector
from visionlora.scoring import mean_precision, top_accuracy
from visionlora.training.curves import draw_curves
from visionlora.training.recipes import NEAR
from visionlora.training.record import check_same, identity, read_record, run_record, write_record
from visionlora.training.run_folder import ACTIVATION, FLOAT, QAT, PhaseFolder, RunFolder
from visionlora.training.settings import QatSettings, Schedule, TrainingSettings

TITLES = {FLOAT: "float", ACTIVATION: "ReLU in place of SiLU", QAT: "the arithmetic that ships"}
_NOT_LAST = "another phase goes on from this one, and a run gets more epochs in its last phase only"
_FADES = "ReLU comes in step by step over its epochs"


@dataclass(frozen=True)
class Phase:
    """What one phase of a training does.

    Attributes:
        kind: one of `TITLES`.
        adapter: shape of the adapter.
        schedule: how long, and in what steps.
        lean: less memory, more time.
        distill: how much the predictions of the adapter to learn from count.
        qat: training under the rounding of the shipped file; None trains in float.
        number, count: which phase this is, from 1, of how many.
    """

    kind: str
    adapter: AdapterSettings
    schedule: Schedule
    lean: bool = False
    distill: float = 0.0
    qat: QatSettings | None = None
    number: int = 1
    count: int = 1

    @property
    def title(self) -> str:
        """What the log says above it; empty where it is the only one."""
        if self.count == 1:
            return ""
        return f"phase {self.number} of {self.count}: {TITLES[self.kind]} (epochs: {self.schedule.epochs})"

    @property
    def fixed(self) -> str:
        """Why no epochs can be added to it when it is resumed; empty where they can."""
        return _NOT_LAST if self.number < self.count else _FADES if self.kind == ACTIVATION else ""

    @property
    def lengthened_by(self) -> str:
        """The option that makes it longer when it is resumed; empty where none does."""
        return "" if self.fixed else "--epochs" if self.qat is None else "--qat-epochs"

    def folder(self, run: RunFolder) -> PhaseFolder:
        """Return where its files lie."""
        return run.last if self.number == self.count else run.before[self.kind]


def plan_phases(settings: TrainingSettings) -> tuple[Phase, ...]:
    """Return the phases of a training: what the adapter to go on with does not have yet.

    Raises:
        UsageError: it has everything.
    """
    start, distill = settings.start, settings.distill or 0.0
    phases = []
    if start is None:
        plain = replace(settings.adapter, activation="silu")
        phases.append(Phase(FLOAT, plain, settings.schedule, lean=settings.lean))
    if settings.adapter.relu_targets and not (start and read_adapter_card(start).settings == settings.adapter):
        schedule = settings.schedule
        if settings.recipe.lr0 is None:
            schedule = replace(schedule, lr0=NEAR.lr0)  # no norm is live any more
        phases.append(Phase(ACTIVATION, settings.adapter, schedule, lean=settings.lean, distill=distill))
    if settings.qat:
        schedule = settings.qat.schedule(settings.schedule)
        phases.append(Phase(QAT, settings.adapter, schedule, distill=distill, qat=settings.qat))
    if not phases:
        raise UsageError(
            f"--adapter {start}: it has --activation {settings.adapter.activation} already; give --quantize to train "
            "it on"
        )
    return tuple(replace(phase, number=number, count=len(phases)) for number, phase in enumerate(phases, 1))


@dataclass(frozen=True, eq=False)
class Run:
    """What all phases of a training share.

    Attributes:
        settings: of all phases.
        base: the frozen detector.
        dataset: with train and val.
        folder: of the run.
        hyperparameters: of the trainer, in float.
        images: the training images that calibrate the ranges which int8 training begins with.
        recipe: what the record says of the recipe.
    """

    settings: TrainingSettings
    base: Base
    dataset: Dataset
    folder: RunFolder
    hyperparameters: Mapping[str, Any]
    images: Sequence[LabelledImage] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)


def run_phase(run: Run, phase: Phase, *, start: Path | None, teacher: Path | None, resume: bool) -> Path:
    """Train and leave the adapter, `results.csv` and curves in the phase's folder; return the adapter's path.

    Args:
        run: what all phases share.
        phase: what to do.
        start: adapter to begin with; None begins with the base.
        teacher: adapter (in float) whose predictions count as goals too; None for none.
        resume: go on with an interrupted phase; a finished one is left as it is.

    Raises:
        AdapterError: the adapter to begin with is of another base or shape.
        UsageError: the run to resume began with other settings.
        VisionLoraError: the loss stays infinite at an eighth of the learning rate.
    """
    here = phase.folder(run.folder)
    record = _record(run, phase, start, teacher)
    state = _resumed(run, record, here, phase) if resume else None
    if resume and (state is None or _is_finished(state, phase)):
        epochs = phase.schedule.epochs
        longer = f"; more {phase.lengthened_by} would make it longer" if state and phase.lengthened_by else ""
        report("train", epochs, epochs, f"{here.path}: finished already{longer}")
        if state:
            restore_results(state, here.results)
    else:
        _begin(record, here, resume=resume)
        job = _job(run, phase, record, start=start, teacher=teacher, resume=resume, state=state)
        run.settings.family.train(job)
    if not here.curves.exists():
        draw_curves(here.results, here.curves)
    for path in (*([here.state] if phase.fixed else []), *here.temporary):
        path.unlink(missing_ok=True)
    return here.adapter


def _record(run: Run, phase: Phase, start: Path | None, teacher: Path | None) -> dict[str, Any]:
    """Return the settings of the phase, as training.json and the adapter's card keep them."""
    qat, hyperparameters = None, {**run.hyperparameters, "lr0": phase.schedule.lr0}
    if phase.qat:
        hyperparameters = run.settings.family.int8_hyperparameters(
            hyperparameters, run.settings.hyperparameters, epochs=phase.schedule.epochs, lr0=phase.schedule.lr0
        )
        learned = phase.qat.ranges == "learned"
        qat = {"to": phase.qat.weights, "images": len(run.images), "learned": learned}
    return run_record(
        run.base,
        run.dataset,
        phase.adapter,
        hyperparameters,
        start=start,
        teacher=None if teacher is None else (teacher, phase.distill),
        qat=qat,
        recipe=run.recipe,
        factors=_factors(run, start),
    )


def _job(
    run: Run,
    phase: Phase,
    record: Mapping[str, Any],
    *,
    start: Path | None,
    teacher: Path | None,
    resume: bool,
    state: Mapping[str, Any] | None,
) -> TrainingJob:
    """Return what the trainer is told; the graphs that it needs are written."""
    here = phase.folder(run.folder)
    return TrainingJob(
        model=str(run.base.path),
        fingerprint=run.base.fingerprint,
        out=here.path.resolve(),
        names=run.dataset.names,
        task=run.base.task,
        keypoints=run.dataset.keypoints,
        images={split: run.dataset.split(split) for split in ("train", "val")},
        ruler=partial(mean_precision, task=run.base.task) if run.base.task.boxes else top_accuracy,
        settings=phase.adapter,
        preprocessing=preprocessing_card(phase.schedule.imgsz, run.base.task.preprocessing),
        training=record,
        hyperparameters={**record["hyperparameters"], "device": run.settings.device},
        run=identity(record, run.settings.family),
        resume=resume,
        lean=phase.lean,
        factors=_factors(run, start),
        start=start,
        teacher=None if teacher is None else _graph(run, phase, teacher, here.teacher),
        distill=phase.distill,
        int8=None if phase.qat is None or start is None else _int8(run, phase, phase.qat, start, state),
        title=phase.title,
    )


def _factors(run: Run, start: Path | None) -> FactorTraining:
    """Return how the factors of a phase are trained: they begin with those of an adapter to begin with."""
    factors = run.settings.factors
    return factors if start is None else replace(factors, start=STARTS[0])


def _graph(run: Run, phase: Phase, adapter: Path, out: Path) -> Path:
    """Write the float graph of the base with an adapter."""
    adapted = run.settings.family.with_adapter(run.base, load_adapter(adapter))
    return write_graph(adapted, out, image_size=phase.schedule.imgsz)


def _int8(run: Run, phase: Phase, qat: QatSettings, start: Path, state: Mapping[str, Any] | None) -> Int8Phase:
    """Write the float graph to begin with and calibrate it; a resumed run has its recipe in its state."""
    path = _graph(run, phase, start, phase.folder(run.folder).graph)
    source = load_float_detector(path)
    if state is not None:
        recipe = QuantizationRecipe.from_json(state["recipe"])
    else:
        recipe = calibrate_detector(source, run.images, weights=qat.weights)
    spec = fake_quant_spec(source.model.graph, recipe)
    return Int8Phase(path, spec, json.loads(recipe.to_json()), qat.ranges == "learned")


def _begin(record: Mapping[str, Any], here: PhaseFolder, *, resume: bool) -> None:
    """Write the settings of the phase, of a resumed one anew: it may be longer, or have its files elsewhere, now."""
    if resume:
        here.curves.unlink(missing_ok=True)
    else:
        here.path.mkdir(parents=True, exist_ok=True)
        here.clear()
    write_record(record, here.settings)


def _resumed(run: Run, record: Mapping[str, Any], here: PhaseFolder, phase: Phase) -> Mapping[str, Any] | None:
    """Return the state of the run to go on with; None for a finished one that kept none.

    Raises:
        UsageError: there is no run, or a setting differs that may not.
        ModelError: what the run left is damaged.
    """
    if not here.settings.is_file() or not here.has_progress():
        begun = here.adapter.exists() or here.state.exists()
        advice = "pass --overwrite instead of --resume to begin anew" if begun else "train without --resume"
        missing = "no epoch was saved whole there" if here.settings.is_file() or not begun else "no settings"
        raise UsageError(f"{here.path}: no run to resume: {missing}; {advice}")
    record, family = json.loads(json.dumps(record)), run.settings.family
    before = read_record(here.settings)
    check_same(before, record, here.path, family, choice=run.settings.recipe, fixed=phase.fixed)
    if here.state.exists():
        return read_resume_state(here.state, run=identity(before, family))
    if before["hyperparameters"]["epochs"] != phase.schedule.epochs:
        raise UsageError(
            f"{here.path}: finished, and {here.state.name}, which it would go on from, is not there; train a new run"
        )
    return None


def _is_finished(state: Mapping[str, Any], phase: Phase) -> bool:
    """Whether a run came to the end of all epochs, or stopped for want of progress, and not more are asked for now."""
    return bool(state["finished"]) and state["epochs"] == phase.schedule.epochs
