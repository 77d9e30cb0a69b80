"""Before training: what each way to train would cost on this machine, measured, and which one to take."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.methods import LoRA
from visionlora.data import load_dataset
from visionlora.detectors import family_of
from visionlora.detectors.device import check_device, check_gpu, default_device, torch_device
from visionlora.detectors.family import Base, StepCost, StepSample, StepSpec
from visionlora.errors import UsageError
from visionlora.formats.kinds import CHECKPOINT
from visionlora.hub import local_file
from visionlora.patching import check_keep
from visionlora.progress import counting, tracked
from visionlora.training.batching import Fitting, Room
from visionlora.training.keeping import MOST, KeptCost, default_start, kept_costs, kept_lines
from visionlora.training.recipes import Recipe, RecipeChoice, look_at, recipe_for
from visionlora.training.samples import step_sample
from visionlora.training.settings import AUTO_BATCH, Schedule, batch_or_usual, check_count, check_memory
from visionlora.training.target import with_task

_ROUNDS = 5
_WIDE = 0.25  # of the median, between a way's fastest and slowest turn
_LEAST = 0.03  # a smaller difference of times is none, however steady


@dataclass(frozen=True, repr=False)
class PlannedRun:
    """One way to train, and what it costs here.

    Attributes:
        label: in words.
        options: what to add to `visionlora train` for it; None where visionlora does not train this way.
        trainable: parameters that are trained.
        share: of the detector's parameters.
        file_bytes: what has to be kept and shipped, about: an adapter, or a whole checkpoint.
        milliseconds: a step, the median of its turns; None if it does not fit.
        memory: bytes of a step (see `StepCost`); None if it does not fit.
        turns_ms: the median of each turn; the ways are measured in turns.
        fits: whether the step fits this machine's free GPU memory.
        largest: images of the largest batch that a training fits with, 0 if none; None where it was not looked for.
    """

    label: str
    options: str | None
    trainable: int
    share: float
    file_bytes: int
    milliseconds: float | None
    memory: int | None
    fits: bool
    turns_ms: tuple[float, ...] = ()
    largest: int | None = None

    def __repr__(self) -> str:
        time = "does not fit" if self.milliseconds is None else f"{self.milliseconds:.1f} ms a step"
        return f"PlannedRun({self.label}: {self.trainable:,} parameters, {time})"


@dataclass(frozen=True)
class Ratio:
    """How the times of two ways compare: the median over rounds of the ratio of their turns, its least and most."""

    median: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether there is a difference beyond noise: every round says so, and it is more than 3 %."""
        return (self.low > 1 or self.high < 1) and abs(self.median - 1) > _LEAST

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})" + ("" if self.differs else " ~")


@dataclass(frozen=True, repr=False)
class TrainingPlan:
    """What `plan` measured.

    Attributes:
        rows: the ways to train; the first is full fine-tuning.
        recommended: the label of the row to take.
        command: the training command for it.
        reason: why, in a sentence.
        device: what it was measured on.
        steps: training steps of one epoch.
        noise: what disturbed the measurement, a sentence; empty if nothing did.
        pictures: what they look like to the base, and which recipe the adapters follow for that.
        batches: what the largest batch of a way fits into; empty where it was not looked for.
        kept: what a file costs that keeps the base, by the first module that the adapter has for itself; empty where
            none is kept.
    """

    rows: tuple[PlannedRun, ...]
    recommended: str
    command: str
    reason: str
    device: str
    steps: int
    noise: str = ""
    pictures: str = ""
    batches: str = ""
    kept: tuple[KeptCost, ...] = ()

    def __repr__(self) -> str:
        return f"TrainingPlan({len(self.rows)} ways on {self.device}; recommended: {self.recommended})"

    def __str__(self) -> str:
        full = self.rows[0]
        lines = [
            f"one step on {self.device}, in {_ROUNDS} turns; {self.steps} steps an epoch",
            *([self.pictures] if self.pictures else []),
            *([self.batches] if self.batches else []),
            "",
            "| way to train | trainable | share | file, MB | ms a step | spread | GiB | time of full | GiB of full |",
            "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: |",
        ]
        if self.batches:
            lines[-2:] = [f"{lines[-2]} largest batch |", f"{lines[-1]} ---: |"]
        for row in self.rows:
            mark = " (recommended)" if row.label == self.recommended else ""
            cells = [f"{row.label}{mark}", f"{row.trainable:,}", f"{row.share:.1%}", f"{row.file_bytes / 1e6:.2f}"]
            if row.milliseconds is None or row.memory is None:
                cells += ["does not fit", "-", "-", "-", "-"]
            else:
                spread = f"{min(row.turns_ms):.1f}-{max(row.turns_ms):.1f}" if row.turns_ms else "-"
                cells += [f"{row.milliseconds:.1f}", spread, f"{row.memory / 2**30:.2f}", *_against(row, full)]
            cells += [] if row.largest is None else [str(row.largest or "none")]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "~: no difference beyond noise.", *kept_lines(self.kept)]
        return "\n".join([*lines, *([f"NOISY: {self.noise}"] if self.noise else []), "", self.reason, self.command])

    def to_json(self) -> str:
        """Return the plan as one JSON object."""
        return json.dumps(asdict(self), indent=2)


def plan(
    model: Path | str,
    data: Path | str,
    *,
    task: str | None = None,
    imgsz: int | None = None,
    batch: int | str = 16,
    memory: float | None = None,
    device: str | None = None,
    keep: str | None = None,
) -> TrainingPlan:
    """Measure a few steps of every way to train `model` on `data` here, and recommend one.

    Full fine-tuning, two frozen ways and adapters of several ranks and places are each trained for a few steps on
    noise with the data set's boxes; nothing is written. On a GPU, memory is the peak of a step; on a CPU, what is kept
    for the backward pass. The ways take turns, and times are compared within a round: what else runs on the machine
    slows all of them. What is no difference beyond noise is marked, and nothing is recommended for it.

    Args:
        model: checkpoint (.pt, .pth) of a detector, or a bare name such as `yolo11n.pt`.
        data: data.yaml with a train split.
        task: `detect`, `segment`, `pose` or `obb`, as for `train`; None for the model's.
        imgsz: side of the network's square input in pixels; that which the model was trained at if None.
        batch: images a step. `auto` finds for each way the largest batch up to 64 that a training fits with (see
            docs/training.md), and times a step at 16, or at the largest batch of all where that is less; on a GPU only.
        memory: with `auto`, the GiB to fit into, as on a smaller GPU; what is free if None.
        device: `cpu` or the number of one GPU; the first GPU if there is one, else the CPU, if None.
        keep: `exact` plans for a file that keeps the base's classes, as `adapt` with it makes: what that file costs for
            every first module of the adapter, computed, and a step of the one that is the default.

    Raises:
        UsageError: a setting is wrong, or one batch of pictures does not fit into memory or leaves a step too few.
        DataError, ModelError: the data set or the base cannot be used.

    Example:
        >>> import visionlora as vl
        >>> print(vl.plan("yolo11n.pt", "data.yaml", imgsz=320))  # doctest: +SKIP
    """
    check_keep(keep, None)
    auto, batch = batch == AUTO_BATCH, batch_or_usual(batch)
    check_count(batch, "--batch")
    if imgsz is not None:
        check_count(imgsz, "--imgsz")
    check_memory(memory, auto=auto)
    device = check_device(default_device() if device is None else device)
    if "," in device:
        raise UsageError(f"--device {device}: a plan is measured on one device; name one, such as {device[0]}")
    if auto:
        check_gpu(device)
    place = torch_device(device)
    model = local_file(model, CHECKPOINT)
    family = family_of(model)
    base = with_task(family, family.load(model), task, data)
    imgsz = base.image_size if imgsz is None else imgsz
    family.check_image_size(imgsz, base)
    kept = kept_costs(base, imgsz) if keep else ()
    dataset = load_dataset(data, splits=("train",), task=base.task)
    images = dataset.split("train")
    if not auto:
        family.check_batches(base, {"imgsz": imgsz, "batch": batch}, pictures=len(images), processes=1)
    look = look_at(family, base, images)
    recipe = recipe_for(look)
    sample = step_sample(dataset.names, images, batch=batch, image_size=imgsz, device=place)
    start = f"from:{default_start(kept)}" if kept else None
    ways, largest, batches = _ways(base, recipe, start), None, ""
    if auto:
        fitting = Fitting(family, base, sample, Room.on(device, memory=memory), len(images))
        largest = _largest_batches(fitting, ways)
        sample = replace(sample, batch=_timed_batch(fitting.batches, max(largest)))
        batches = f"largest batch: the largest of {fitting}"
    rows = _measure(base, ways, sample, largest or [None] * len(ways))
    chosen, reason = recommend(rows) if start is None else _recommend_kept(rows, start)
    words = [
        "visionlora",
        "train" if keep is None else "adapt",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        "runs/adapter",
    ]
    words += [] if task is None else ["--task", task]
    words += ["--epochs", str(Schedule.epochs), "--imgsz", str(imgsz), "--batch", AUTO_BATCH if auto else str(batch)]
    words += ["--device", device, *([] if keep is None else ["--keep", keep])]
    return TrainingPlan(
        rows=rows,
        recommended=chosen.label,
        command=f"{shlex.join(words)} {chosen.options or ''}".rstrip(),
        reason=reason,
        device=f"{_name(place)}, {imgsz} px, batch {sample.batch}",
        steps=math.ceil(len(images) / sample.batch),
        noise=_noise(rows),
        pictures=f"pictures {look}: recipe {recipe.name}",
        batches=batches,
        kept=kept,
    )


@dataclass(frozen=True)
class _Way:
    """A way to train: its label, the options of `visionlora train` (None for what that does not do), its step."""

    label: str
    options: str | None
    step: StepSpec


def _ways(base: Base, recipe: Recipe, start: str | None = None) -> tuple[_Way, ...]:
    """Return the usual ways to fine-tune the detector itself, and adapters of several ranks and places by a recipe.

    Of an adapter beside a base that is kept, `start` is the one place, at several ranks.
    """

    def adapter(
        options: str, *, lean: bool = False, rank: int = 8, targets: str = "all", precision: str = FLOAT32
    ) -> _Way:
        label = f"LoRA, rank {rank}, {targets}" + (", lean" if lean else "")
        label += f", base in {precision}" if precision != FLOAT32 else ""
        settings = AdapterSettings(LoRA(rank), targets=targets, base_precision=precision)
        settings = RecipeChoice().adapter(settings, recipe)
        return _Way(label, options, StepSpec(settings, lean=lean))

    family = family_of(base)
    full = tuple(_Way(label, None, step) for label, step in family.fine_tunings(base).items())
    if start is not None:
        return (*full, *(adapter(f"--rank {rank} --targets {start}", rank=rank, targets=start) for rank in (8, 4, 16)))
    return (
        *full,
        adapter("--rank 8"),
        *([adapter("--rank 8 --lean", lean=True)] if family.lean else []),
        adapter("--rank 8 --base-precision nf4", precision="nf4"),
        adapter("--rank 4", rank=4),
        adapter("--rank 16", rank=16),
        adapter("--rank 32", rank=32),
        *(adapter(f"--rank 8 --targets {targets}", targets=targets) for targets in family.partial_targets),
    )


def _largest_batches(fitting: Fitting, ways: Sequence[_Way]) -> tuple[int, ...]:
    """Return the largest batch that each way fits with, 0 where none does."""
    found = []
    with counting("plan", None, "batch", "looking for the largest") as advance:
        for way in ways:
            largest = fitting.largest(way.step, advance)
            found.append(largest.batch if largest else 0)
    return tuple(found)


def _timed_batch(batches: Sequence[int], most: int) -> int:
    """Return the largest batch to time steps at, where `most` is the largest that any way fits with."""
    return max((batch for batch in batches if batch <= min(most, Schedule.batch)), default=batches[0])


def _measure(
    base: Base, ways: Sequence[_Way], sample: StepSample, largest: Sequence[int | None]
) -> tuple[PlannedRun, ...]:
    """Measure a few steps of each way, the count of ways on a terminal; `largest` is the largest batch of each."""
    free = torch.cuda.mem_get_info(sample.device)[0] if sample.device.type == "cuda" else None
    costs: tuple[StepCost, ...] = ()
    turns = family_of(base).measure_steps(base, [way.step for way in ways], sample, rounds=_ROUNDS)
    total = _ROUNDS * len(ways)
    for costs in tracked(turns, "plan", of=total, unit="turn", message="measuring"):  # noqa: B007
        pass
    whole = costs[0].trainable  # of full fine-tuning, with the data set's classes
    return tuple(
        PlannedRun(
            label=way.label,
            options=way.options,
            trainable=cost.trainable,
            share=cost.trainable / whole,
            file_bytes=2 * (whole if way.options is None else cost.trainable),  # either is kept in half precision
            milliseconds=cost.milliseconds,
            memory=cost.memory,
            fits=cost.memory is not None
            and (free is None or cost.memory <= free)
            and (most is None or most >= sample.batch),
            turns_ms=cost.turns_ms,
            largest=most,
        )
        for way, cost, most in zip(ways, costs, largest, strict=True)
    )


def recommend(rows: tuple[PlannedRun, ...]) -> tuple[PlannedRun, str]:
    """Return the row to take, and why in a sentence.

    Adapters on all layers come first, because they are the ones whose accuracy was measured (benchmarks/accuracy): at
    rank 8, then in less memory, then in fewer layers. `--lean` gives the same adapter, so where it is not slower beyond
    noise, it is the one.
    """
    full = rows[0]
    by_options = {row.options: row for row in rows if row.options is not None}
    partial = [options for options in by_options if "--targets" in options]
    order = [options for options in ("--rank 8", "--rank 8 --lean", *partial) if options in by_options]
    first, lean = by_options["--rank 8"], by_options.get("--rank 8 --lean")
    if lean is not None and first.fits and lean.fits and lean.memory < first.memory:  # type: ignore[operator]
        ratio = _ratio(lean, first)
        if ratio is not None and not (ratio.differs and ratio.median > 1):
            why = "the same adapter as without --lean in less memory, and no difference of time beyond noise"
            if ratio.differs:
                why = "the same adapter as without --lean, in less time and memory"
            return lean, f"Recommended: rank 8 in all layers with --lean: {why}. {_in_words(lean, full)}"
    for options in order:
        row = by_options[options]
        if row.fits:
            usual = "rank 8 in all layers, whose accuracy was measured"
            why = usual if options == "--rank 8" else f"the first that fits, with {options}"
            return row, f"Recommended: {why}. {_in_words(row, full)}"
    return lean or first, "No way to train fits this machine; use a smaller --batch or --imgsz."


def _recommend_kept(rows: Sequence[PlannedRun], start: str) -> tuple[PlannedRun, str]:
    """Return the row of the adapter that stands beside its base by default, and why in a sentence."""
    chosen = next(row for row in rows if row.options == f"--rank 8 --targets {start}")
    why = f"from the first module on with which the file computes at most {MOST:g} times the base"
    return chosen, f"Recommended: rank 8, {start}: {why}. {_in_words(chosen, rows[0])}"


def _ratio(row: PlannedRun, other: PlannedRun) -> Ratio | None:
    """Compare the times of two ways, turn by turn of the same round; None where one does not fit."""
    ratios = [own / its for own, its in zip(row.turns_ms, other.turns_ms, strict=False)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def _against(row: PlannedRun, full: PlannedRun) -> tuple[str, str]:
    """Return the time and the memory of a way as shares of full fine-tuning's, for a table."""
    ratio = _ratio(row, full)
    if ratio is None or row.memory is None or full.memory is None:
        return "full does not fit", "-"
    return ("1", "1") if row is full else (str(ratio), f"{row.memory / full.memory:.2f}")


def _in_words(row: PlannedRun, full: PlannedRun) -> str:
    """Say how a way compares with full fine-tuning."""
    ratio = _ratio(row, full)
    if ratio is None or row.memory is None or full.memory is None:
        return "Full fine-tuning does not fit."
    time = f"{ratio.median:.2f} of the time" if ratio.differs else "no difference of time beyond noise"
    return f"Against full fine-tuning: {time}, {row.memory / full.memory:.2f} of the memory."


def _noise(rows: Sequence[PlannedRun]) -> str:
    """Say that the machine was busy, if the turns of one way differ by more than a quarter of their median."""
    spreads = {
        row.label: (max(row.turns_ms) - min(row.turns_ms)) / statistics.median(row.turns_ms)
        for row in rows
        if row.turns_ms
    }
    wide = [label for label, spread in spreads.items() if spread > _WIDE]
    if not wide:
        return ""
    return (
        f"the turns of {len(wide)} of {len(spreads)} ways differ by more than {_WIDE:.0%} of their median, those of "
        f"{wide[0]} by {spreads[wide[0]]:.0%}; measure again on an idle machine"
    )


def _name(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
