"""One phase of training: a base, a data set and settings -> an adapter file, resumable."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import psutil

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import load_adapter
from visionlora.cards import preprocessing_card
from visionlora.data import Dataset, LabelledImage, find_shared_images
from visionlora.detectors import family_of
from visionlora.detectors.family import Base
from visionlora.detectors.job import ADAPTER_FILE, RESULTS_FILE, RESUME_FILE, Int8Phase, TrainingJob
from visionlora.detectors.resume import read_resume_state, restore_results
from visionlora.errors import OutputError, UsageError
from visionlora.exporting.exporting import write_graph
from visionlora.fake_quant import FakeQuantSpec, RangeSpec
from visionlora.files import sha256_of
from visionlora.int8 import QuantizationRecipe
from visionlora.int8.plan import Use
from visionlora.progress import say
from visionlora.quantization import calibrate_detector
from visionlora.quantization.float_detector import load_float_detector
from visionlora.scoring import mean_precision
from visionlora.training.curves import draw_curves
from visionlora.training.record import check_same, identity, read_settings, shared_settings, write_settings

_LOGGER = logging.getLogger("visionlora")
SETTINGS_FILE, CURVES_FILE = "training.json", "curves.png"
GRAPH_FILE, TEACHER_FILE = "start.onnx", "teacher.onnx"
RUN_FILES = (ADAPTER_FILE, RESUME_FILE, RESULTS_FILE, SETTINGS_FILE, CURVES_FILE)
WORK_FILES = (GRAPH_FILE, TEACHER_FILE, "start.recipe.json")  # the last one: of version 0.2
_PARTIAL = re.compile(r"\..+\.(\d+)\.partial(\..*)?")
FLOAT_FOLDER, ACTIVATION_FOLDER = "float", "activation"
"""Of the parts of a training before its last one, in the folder of the run."""


@dataclass(frozen=True)
class Phase:
    """What one phase of training does.

    Attributes:
        settings: shape of the adapter.
        hyperparameters: of Ultralytics' trainer, with `epochs`, `imgsz`, `batch`, `seed` and `lr0`.
        lean: less memory, more time.
        start: adapter to begin with; None begins with the base.
        teacher: adapter (in float) whose predictions count as goals too; None for none.
        distill: how much they count.
        quantize: `int8` trains as the int8 file computes, `int4` as one with int4 weights does; None trains in float.
        images: the training images that calibrate the ranges which int8 training begins with.
        learned: whether int8 training changes the ranges.
        title: what the log says above it.
        fixed: why no epochs can be added to it when it is resumed; empty where they can.
        console: how much is said while it trains, one of `visionlora.progress.LEVELS`.
    """

    settings: AdapterSettings
    hyperparameters: Mapping[str, Any]
    lean: bool = False
    start: Path | None = None
    teacher: Path | None = None
    distill: float = 0.0
    quantize: str | None = None
    images: Sequence[LabelledImage] = ()
    learned: bool = True
    title: str = ""
    fixed: str = ""
    console: str = "lines"


def run_phase(base: Base, dataset: Dataset, out: Path, phase: Phase, *, device: str, resume: bool) -> Path:
    """Train and leave the adapter, `results.csv` and curves in `out`; return the adapter's path.

    Args:
        base: the frozen detector.
        dataset: with train and val.
        out: folder of the phase.
        phase: what to do.
        device: as Ultralytics names it.
        resume: go on with an interrupted phase in `out`; a finished one is left as it is.

    Raises:
        AdapterError: the adapter to begin with is of another base or shape.
        UsageError: the run to resume began with other settings.
        VisionLoraError: the loss became infinite.
    """
    record = _settings(base, dataset, phase)
    state = _resumed(record, out, phase) if resume else None
    finished = resume and (state is None or _is_finished(state, phase))
    if not finished:
        if resume:
            write_settings(record, out / SETTINGS_FILE)  # of a run that became longer, or whose files lie elsewhere now
            (out / CURVES_FILE).unlink(missing_ok=True)
        else:
            _begin(record, out)
        imgsz = int(phase.hyperparameters["imgsz"])
        job = TrainingJob(
            model=str(base.path),
            fingerprint=base.fingerprint,
            out=out.resolve(),
            names=dataset.names,
            images={split: dataset.split(split) for split in ("train", "val")},
            ruler=mean_precision,
            settings=phase.settings,
            preprocessing=preprocessing_card(imgsz),
            training=record,
            hyperparameters={**phase.hyperparameters, "device": device},
            run=identity(record),
            resume=resume,
            lean=phase.lean,
            start=phase.start,
            teacher=_teacher(base, phase, imgsz, out),
            distill=phase.distill,
            int8=_int8(base, phase, imgsz, out, state),
            title=phase.title,
            console=phase.console,
        )
        family_of(base).train(job)
    else:
        say(f"{out}: finished already; more --epochs would make it longer", phase.console)
        if state:
            restore_results(state, out / RESULTS_FILE)
    if not (out / CURVES_FILE).exists():
        draw_curves(out / RESULTS_FILE, out / CURVES_FILE)
    for name in (*([RESUME_FILE] if phase.fixed else []), *WORK_FILES):
        (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / "weights").rmdir()  # Ultralytics' folder, empty here
    return out / ADAPTER_FILE


def has_progress(out: Path) -> bool:
    """Whether a phase in a folder came to the end of an epoch and saved it whole, or came to the end of all."""
    return (out / RESUME_FILE).is_file() or ((out / ADAPTER_FILE).is_file() and not _first_save_broke(out))


def _first_save_broke(out: Path) -> bool:
    """Whether a phase without a state to resume from has only the adapter of its first epoch: that is written first.

    Curves are drawn before a finished phase lets go of the state; a second row of results is written behind a state.
    """
    results = out / RESULTS_FILE
    if (out / CURVES_FILE).exists() or not results.is_file():
        return False
    return results.read_bytes().strip().count(b"\n") <= 1  # the first line is the head


def simulation_spec(graph: onnx.GraphProto, recipe: QuantizationRecipe) -> FakeQuantSpec:
    """Return what `apply_recipe` makes int8 of a graph, for training.

    Raises:
        UsageError: the recipe is for int8 activations around zero.
    """
    if recipe.scheme.symmetric:
        raise UsageError(f"scheme {recipe.scheme.name}: training knows uint8 activations only")
    plan = recipe.plan_for(graph)
    known = (Use.UNIT, Use.SCORE)  # by definition, not by measurement
    ranges = []
    for group in plan.groups:
        chosen = recipe.ranges[group.tensors[0]]
        scale, zero = float(chosen.scale), int(chosen.zero_point)
        ranges.append(RangeSpec(group.tensors, group.sources, scale, zero, learned=group.use not in known))
    return FakeQuantSpec(plan.convs, tuple(ranges), plan.int4)


def _settings(base: Base, dataset: Dataset, phase: Phase) -> dict[str, Any]:
    """Return the settings of the phase, as training.json and the adapter's card keep them."""
    record = shared_settings(base, dataset, phase.settings, phase.hyperparameters)
    if phase.start is not None:
        record["start"] = sha256_of(phase.start)
    if phase.teacher is not None:
        record["teacher"] = {"adapter": sha256_of(phase.teacher), "distill": phase.distill}
    if phase.quantize is not None:
        record["quantize"] = {"to": phase.quantize, "images": len(phase.images), "learned": phase.learned}
    return record


def _teacher(base: Base, phase: Phase, imgsz: int, out: Path) -> Path | None:
    """Write the graph of the adapter to learn from."""
    if phase.teacher is None:
        return None
    adapted = family_of(base).with_adapter(base, load_adapter(phase.teacher))
    return write_graph(adapted, out / TEACHER_FILE, image_size=imgsz)


def _int8(base: Base, phase: Phase, imgsz: int, out: Path, state: Mapping[str, Any] | None) -> Int8Phase | None:
    """Write the float graph to begin with and calibrate it; a resumed run has its recipe in its state."""
    if phase.quantize is None or phase.start is None:
        return None
    adapted = family_of(base).with_adapter(base, load_adapter(phase.start))
    path = write_graph(adapted, out / GRAPH_FILE, image_size=imgsz)
    source = load_float_detector(path)
    if state is not None:
        recipe = QuantizationRecipe.from_json(state["recipe"])
    else:
        recipe = calibrate_detector(source, phase.images, weights=phase.quantize)
    spec = simulation_spec(source.model.graph, recipe)
    return Int8Phase(path, spec, json.loads(recipe.to_json()), phase.learned)


def run_folders(out: Path) -> tuple[Path, ...]:
    """Return the folders of a run in `out`: its own, where the last part is, and those of the parts before."""
    return out, out / FLOAT_FOLDER, out / ACTIVATION_FOLDER


def refuse_earlier_run(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a run any part of which came to the end of an epoch.

    Raises:
        OutputError: it does and `overwrite` is false.
    """
    files = [folder / name for folder in run_folders(out) for name in RUN_FILES if name != SETTINGS_FILE]
    present = [path.relative_to(out) for path in files if path.exists()]
    if present and not overwrite:
        resumable = any(map(has_progress, run_folders(out)))
        raise OutputError(
            f"{out}: holds a training run already ({present[0]}); choose another --out, or pass --overwrite"
            + (", or --resume to go on with it" if resumable else "")
        )


def clear_run(out: Path) -> None:
    """Remove the files of a run, or of a phase of one, from a folder."""
    for name in (*RUN_FILES, *WORK_FILES):
        (out / name).unlink(missing_ok=True)


def clear_partials(out: Path) -> None:
    """Remove the half-written files of killed runs, by whose names their processes are known, from a run's folders."""
    for folder in run_folders(out):
        for path in folder.glob(".*.partial*"):
            found = _PARTIAL.fullmatch(path.name)
            if found and not psutil.pid_exists(int(found[1])):
                path.unlink(missing_ok=True)


def _begin(record: Mapping[str, Any], out: Path) -> None:
    """Clear an earlier phase's files and write the settings of this one."""
    out.mkdir(parents=True, exist_ok=True)
    clear_run(out)
    write_settings(record, out / SETTINGS_FILE)


def warn_of_doubtful_data(dataset: Dataset) -> None:
    """Log what a user would want to know before training, though nothing is wrong with a single file."""
    shared = find_shared_images(dataset.split("train"), dataset.split("val"))
    if shared:
        example = shared[0][1].path
        _LOGGER.warning("%d images of val are in train too, such as %s: the scores flatter", len(shared), example)
    for split in ("train", "val"):
        images = dataset.split(split)
        background = sum(not len(image.class_ids) for image in images)
        if background > len(images) / 2:
            _LOGGER.warning(
                "%d of %d pictures of %s show no object; are their label files in the folder labels?",
                background,
                len(images),
                split,
            )
        empty = dataset.classes_without_objects(split)
        if empty:
            _LOGGER.warning("%s shows no object of: %s", split, ", ".join(empty))


def _resumed(record: Mapping[str, Any], out: Path, phase: Phase) -> Mapping[str, Any] | None:
    """Return the state of the run to go on with; None for a finished one that kept none.

    Raises:
        UsageError: there is no run in `out`, or a setting differs that may not.
        ModelError: what the run left is damaged.
    """
    if not (out / SETTINGS_FILE).is_file() or not has_progress(out):
        begun = any((out / name).exists() for name in (ADAPTER_FILE, RESUME_FILE))
        advice = "pass --overwrite instead of --resume to begin anew" if begun else "train without --resume"
        missing = "no epoch was saved whole there" if (out / SETTINGS_FILE).is_file() or not begun else "no settings"
        raise UsageError(f"{out}: no run to resume: {missing}; {advice}")
    record = json.loads(json.dumps(record))
    before = read_settings(out / SETTINGS_FILE)
    check_same(before, record, out, fixed=phase.fixed)
    if (out / RESUME_FILE).exists():
        return read_resume_state(out / RESUME_FILE, run=identity(before))
    if before["hyperparameters"]["epochs"] != record["hyperparameters"]["epochs"]:
        raise UsageError(
            f"{out}: finished, and {RESUME_FILE}, which it would go on from, is not there; train a new run"
        )
    return None


def _is_finished(state: Mapping[str, Any], phase: Phase) -> bool:
    """Whether a run came to the end of all epochs, or stopped for want of progress, and not more are asked for now."""
    return bool(state["finished"]) and state["epochs"] == phase.hyperparameters["epochs"]
