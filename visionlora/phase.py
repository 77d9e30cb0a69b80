"""One phase of training: a base, a data set and settings -> an adapter file, resumable."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from visionlora.adapters import AdapterSettings, load_adapter
from visionlora.cards import preprocessing_card
from visionlora.curves import draw_curves
from visionlora.data import Dataset, LabelledImage, content_hash, find_shared_images
from visionlora.errors import OutputError, UsageError
from visionlora.evaluation import mean_precision
from visionlora.exporting import write_graph
from visionlora.files import atomic_output, sha256_of
from visionlora.quantization import QuantizationRecipe, calibrate_detector, load_float_detector
from visionlora.quantization.plan import Use
from visionlora.simulation import RangeSpec, SimulationSpec
from visionlora.yolo import Base, with_adapter
from visionlora.yolo.checkpoint import versions
from visionlora.yolo.job import ADAPTER_FILE, RESULTS_FILE, RESUME_FILE, Int8Phase, TrainingJob
from visionlora.yolo.resume import read_resume_state
from visionlora.yolo.trainer import run_job

_LOGGER = logging.getLogger("visionlora")
SETTINGS_FILE, CURVES_FILE = "training.json", "curves.png"
GRAPH_FILE, TEACHER_FILE, RECIPE_FILE = "start.onnx", "teacher.onnx", "start.recipe.json"
_RUN_FILES = (ADAPTER_FILE, RESUME_FILE, RESULTS_FILE, SETTINGS_FILE, CURVES_FILE)
_PLACES = ("model", "data")  # in the record; what lies there is recorded by its content
_WORK_FILES = (GRAPH_FILE, TEACHER_FILE, RECIPE_FILE)
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
    record = _record(base, dataset, phase)
    if not (resume and _is_finished(record, out)):
        if not resume:
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
            resume=resume,
            lean=phase.lean,
            start=phase.start,
            teacher=_teacher(base, phase, imgsz, out),
            distill=phase.distill,
            int8=_int8(base, phase, imgsz, out),
            title=phase.title,
        )
        run_job(job, {**phase.hyperparameters, "device": device})
    draw_curves(out / RESULTS_FILE, out / CURVES_FILE)
    for name in (RESUME_FILE, *_WORK_FILES):
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
    if (out / CURVES_FILE).exists() or not results.exists():
        return False
    return len(results.read_text(encoding="utf-8").splitlines()) <= 2  # the first is the head


def simulation_spec(graph: onnx.GraphProto, recipe: QuantizationRecipe) -> SimulationSpec:
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
    return SimulationSpec(plan.convs, tuple(ranges), plan.int4)


def _record(base: Base, dataset: Dataset, phase: Phase) -> dict[str, Any]:
    """Return the settings of the phase, as training.json and the adapter's card keep them."""
    record: dict[str, Any] = {
        "model": str(base.path),
        "data": str(dataset.yaml_path),
        "adapter": asdict(phase.settings),
        "hyperparameters": dict(phase.hyperparameters),
        "base": base.fingerprint,
        "names": list(dataset.names),
        "data_sha256": {split: content_hash(dataset.split(split)) for split in ("train", "val")},
        "versions": versions(),
    }
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
    return write_graph(with_adapter(base, load_adapter(phase.teacher)), out / TEACHER_FILE, image_size=imgsz)


def _int8(base: Base, phase: Phase, imgsz: int, out: Path) -> Int8Phase | None:
    """Write the float graph to begin with and calibrate it; a resumed run finds its recipe."""
    if phase.quantize is None or phase.start is None:
        return None
    path = write_graph(with_adapter(base, load_adapter(phase.start)), out / GRAPH_FILE, image_size=imgsz)
    source = load_float_detector(path)
    kept = out / RECIPE_FILE
    if kept.exists():
        recipe = QuantizationRecipe.from_json(kept.read_text(encoding="utf-8"))
    else:
        recipe = calibrate_detector(source, phase.images, weights=phase.quantize)
        with atomic_output(kept) as partial:
            partial.write_text(recipe.to_json(), encoding="utf-8")
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
    files = [folder / name for folder in run_folders(out) for name in _RUN_FILES if name != SETTINGS_FILE]
    present = [path.relative_to(out) for path in files if path.exists()]
    if present and not overwrite:
        resumable = any(map(has_progress, run_folders(out)))
        raise OutputError(
            f"{out}: holds a training run already ({present[0]}); choose another --out, or pass --overwrite"
            + (", or --resume to go on with it" if resumable else "")
        )


def clear_run(out: Path) -> None:
    """Remove the files of a run, or of a phase of one, from a folder."""
    for name in (*_RUN_FILES, *_WORK_FILES):
        (out / name).unlink(missing_ok=True)


def _begin(record: Mapping[str, Any], out: Path) -> None:
    """Clear an earlier phase's files and write the settings of this one."""
    out.mkdir(parents=True, exist_ok=True)
    clear_run(out)
    with atomic_output(out / SETTINGS_FILE) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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


def _is_finished(record: Mapping[str, Any], out: Path) -> bool:
    """Compare the settings with those that the run to resume began with; return whether it has no epoch left.

    Raises:
        UsageError: there is no run in `out`, or a setting differs.
    """
    path = out / SETTINGS_FILE
    if not path.is_file() or not has_progress(out):
        raise UsageError(f"{out}: no run to resume: no epoch was saved whole there; train without --resume")
    record = json.loads(json.dumps(record))
    before = json.loads(path.read_text(encoding="utf-8"))
    own, asked = ((part.get("quantize") or {}).get("to") for part in (before, record))
    if own != asked:
        own, asked = (f"with --quantize {each}" if each else "without --quantize" for each in (own, asked))
        raise UsageError(f"{out}: this run began {own}, not {asked}; pass the options that it began with")
    changed = [
        f"{name}: was {old}, now {new}"
        for name, old, new in _differences(before, record)
        if name not in _PLACES and not name.startswith(("versions", "hyperparameters.cache"))
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
