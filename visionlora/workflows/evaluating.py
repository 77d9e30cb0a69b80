"""Evaluate several models on one data set under one ruler."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters import adapter_identity, read_adapter_card
from visionlora.errors import ModelError, UsageError
from visionlora.files import sha256_of
from visionlora.formats.text import printable
from visionlora.machine import installed_versions, this_machine
from visionlora.models import ModelSpec, open_network, parse_specs
from visionlora.progress import about
from visionlora.quantization import sums_saturate
from visionlora.reporting import (
    Column,
    Report,
    ReportInputs,
    Retention,
    RetentionInput,
    Row,
    before_after,
    check_base,
    count_parameters,
    data_doubts,
    find_notes,
    find_warnings,
    judge_budget,
    measure_retention,
    network_doubts,
    refuse_existing_report,
    report_header,
    representative_images,
    saturation_doubts,
    training_doubts,
    training_settings,
    write_report,
)
from visionlora.scoring import (
    Budget,
    Difference,
    EvaluationSplit,
    ModelScores,
    SplitDetections,
    check_budget,
    check_split,
    difference,
    find_objects,
    judge,
    load_split,
    shared_classes,
    time_networks,
    timing_of,
)
from visionlora.tasks import Task
from visionlora.vision.detections import PREDICTION_CONFIDENCE, check_thresholds
from visionlora.vision.inference import Network, detect
from visionlora.vision.preprocess import read_image
from visionlora.workflows.kept import kept_notes


def evaluate(
    models: Sequence[str | Path],
    data: Path | str,
    *,
    split: str = "val",
    imgsz: int | None = None,
    conf: float = PREDICTION_CONFIDENCE,
    retention: Path | str | None = None,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    min_map50: float | None = None,
    against: str | None = None,
    out: Path | str | None = None,
    html: bool = False,
    title: str | None = None,
    part: str | None = None,
    customer: str | None = None,
    cache: bool = True,
    overwrite: bool = False,
) -> Report:
    """Score models of any kind on one data set: same images, same letterbox, same decoding, pycocotools.

    Of classifiers the scores are top-1 and top-5, which stand in the fields `map50_95` and `map50`.

    Models run on the CPU, so that their milliseconds can be compared. The first model that knows all the classes is the
    reference, or `against`; every difference to it has a 95 % interval by a paired bootstrap over the images.

    Args:
        models: checkpoints, exported files (.onnx, OpenVINO's .xml, ncnn's .param, LiteRT's .tflite;
            `openvino:model.onnx` runs it in OpenVINO), or `base.pt+adapter.safetensors`; `label=` before one names it.
        data: the data.yaml, or a COCO ground truth (.json) with its pictures beside it; for classifiers a folder of
            classes.
        split: which of its splits; a COCO file has one.
        imgsz: side of the input in pixels; None takes what the files say, which must be one size.
        conf: the score threshold for precision, recall, misses and false alarms.
        retention: data.yaml of the base's source domain; its val split shows what the models have forgotten.
        max_drop: budget: how much mAP50-95, or top-1, a model may lose against the reference, as a fraction of 1.
        max_class_drop: budget: how much AP50-95 of any class it may lose.
        min_map50: budget: the mAP50 that it must reach.
        against: label of the model that the budget counts losses from and that the models held to it follow: the
            reference; None is the first model that knows all the classes.
        out: a folder for report.json, report.md and pictures; None writes nothing.
        html: write report.html too, one page that needs no network.
        title: what to call the report, on top of it.
        part: what the models are to look at, such as a part's number, under the title.
        customer: whom it is for, under the title.
        cache: take what a model found on these images from an earlier evaluation, if nothing has changed since.
        overwrite: replace an earlier report.

    Returns:
        The report; `report.passed` says whether the budget is kept.

    Raises:
        UsageError: a model is named wrongly, the models differ in image size, or an option is out of range.
        DataError: the data set or an image cannot be used.
        ModelError: a model cannot be used, or gives numbers that mean nothing; then there is no report of the others.
        OutputError: there is a report already, or it cannot be written.

    Example:
        >>> report = evaluate(["base=yolo11n.pt", "runs/steel/model.onnx"], "data.yaml", out="report")  # doctest: +SKIP
        >>> report.rows[1].scores.map50_95  # doctest: +SKIP
        0.408
    """
    started = time.monotonic()
    budget = Budget(max_drop, max_class_drop, min_map50)
    check_budget(budget)
    check_thresholds(conf, 0, 1, name="--conf")
    header = report_header(title, part, customer)
    specs = parse_specs(models)
    if against not in (None, *(spec.label for spec in specs)):
        raise UsageError(f"--against: expected one of {', '.join(spec.label for spec in specs)}, got {against!r}")
    if out is None and html:
        raise UsageError("--html: expected a folder to write report.html into; give --out")
    if out is not None:
        refuse_existing_report(out, overwrite=overwrite)
    check_split(data, split)  # a model may take long to open
    if retention is not None:
        check_split(retention, option="--retention")
    networks = [open_network(spec, image_size=imgsz) for spec in specs]
    _check(specs, networks)
    task = networks[0].task
    if not task.boxes:
        _refuse_of_boxes(**{"--min-map50": min_map50, "--retention": retention})
    domain = load_split(data, split, task=task)
    source = None if retention is None else load_split(retention, "val", task=task)
    if source is not None:
        _check_bases(specs, networks)
        check_base(specs[0].label, shared_classes(networks[0], source.names), source.used)
    found = [_find(spec, network, domain, cache=cache) for spec, network in zip(specs, networks, strict=True)]
    judgements = [_judge(detections, domain, conf) for detections in found]
    rows = tuple(map(_row, specs, networks, found, judgements))
    report = Report(
        data=domain.used,
        machine=this_machine(),
        versions=installed_versions(),
        rows=rows,
        against=against,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=_command(
            models,
            {
                "data": data,
                "split": split,
                "imgsz": imgsz,
                "conf": conf,
                "retention": retention,
                "max-drop": max_drop,
                "max-class-drop": max_class_drop,
                "min-map50": min_map50,
                "against": against,
                "title": title,
                "part": part,
                "customer": customer,
                "out": out,
            },
            html=html,
        ),
        retention=None if source is None else _retention(specs, networks, source, conf=conf, cache=cache),
        header=header,
        task=task.name,
    )
    report = replace(report, rows=_with_differences(report, judgements, against))
    report = replace(report, rows=_with_times(report, networks, domain))
    labels = [spec.label for spec in specs]
    names = {label: network.names for label, network in zip(labels, networks, strict=True)}
    pictures = [_relative(image.path, Path(data).parent) for image in domain.images]
    report = replace(
        report,
        warnings=(
            *data_doubts(data, split, domain.images, domain.hashes),
            *training_doubts(
                report, {spec.label: _trained_on(spec, row) for spec, row in zip(specs, rows, strict=True)}
            ),
            *(saturation_doubts(report) if sums_saturate() else ()),
            *network_doubts(
                dict(zip(labels, found, strict=True)),
                {row.label: row.scores.map50_95 if row.scores else None for row in rows},
            ),
            *find_warnings(report, pictures, names),
        ),
        notes=(
            *kept_notes(report.rows, networks, domain.images, report.measured.words[0]),
            *domain.notes,
            *find_notes(report, names),
        ),
        verdict=judge_budget(report, budget, against),
        seconds=round(time.monotonic() - started, 1),
    )
    if out is not None:
        sheet = _sheet(specs, networks, domain)
        evidence = ReportInputs(domain.images, domain.hashes, tuple(judgements), sheet)
        report = write_report(report, out, evidence=evidence, html=html, overwrite=overwrite)
    return report


def _check(specs: Sequence[ModelSpec], networks: Sequence[Network]) -> None:
    """Refuse models that cannot stand in one report, before any time is spent on them."""
    if len({network.task.name for network in networks}) > 1:
        tasks = ", ".join(f"{spec.label} {one.task.name}" for spec, one in zip(specs, networks, strict=True))
        raise UsageError(f"expected models of one task, got {tasks}; judge those of each task on their own")
    if len({network.image_size for network in networks}) > 1:
        sizes = ", ".join(f"{spec.label} {one.image_size} px" for spec, one in zip(specs, networks, strict=True))
        raise UsageError(
            f"expected models of one image size, got {sizes}; pass --imgsz, or export the ONNX files again"
        )
    missing = [str(path) for spec in specs for path in spec.parts if not path.is_file()]
    if missing:  # a bare name may have been found in another folder
        raise ModelError(f"expected the files of all models, found none at {', '.join(missing)}; give their paths")


def _refuse_of_boxes(**options: Any) -> None:
    """Refuse options that say nothing of classifiers."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)}: for detectors alone, and these models classify pictures; leave it out"
        )


def _find(spec: ModelSpec, network: Network, domain: EvaluationSplit, *, cache: bool) -> SplitDetections:
    with about(spec.label):
        return domain.find(network, [spec.path, *spec.parts], runtime=spec.runtime, cache=cache)


def _judge(found: SplitDetections, domain: EvaluationSplit, confidence: float) -> ModelScores | None:
    return judge(found, domain.images, domain.names, weights=domain.weights, confidence=confidence)


def _row(spec: ModelSpec, network: Network, found: SplitDetections, judgement: ModelScores | None) -> Row:
    """Return what is known of a model by itself."""
    kind, parents, settings = _provenance(spec, network)
    return Row(
        label=spec.label,
        file=printable(spec.file),
        kind=kind,
        sha256=sha256_of(*spec.parts),
        bytes=sum(path.stat().st_size for path in spec.parts),
        image_size=network.image_size,
        classes=found.classes,
        scores=judgement.scores if judgement else None,
        ms_per_image=0.0,  # measured when all rows are known
        parents=parents,
        parameters=count_parameters(spec, network),
        settings=settings,
        operating=judgement.operating if judgement else None,
        calibration=judgement.calibration if judgement else None,
        precision=network.precision,
        cut=network.cut,
        boxes=judgement.boxes if judgement else None,
        confusion=judgement.confusion if judgement else None,
    )


def _provenance(spec: ModelSpec, network: Network) -> tuple[str, Mapping[str, str], Mapping[str, Any]]:
    """Return what the file is, role and SHA-256 of the files that it says it was made from, and how it was made."""
    if spec.adapter is not None:
        card = read_adapter_card(spec.adapter)
        parents = {"base": card.base["fingerprint"], "adapter": adapter_identity(spec.adapter)}
        return "adapter", parents, training_settings(card, spec.adapter)
    metadata = getattr(network, "metadata", None) or {}
    kind = {"torch": "checkpoint", "onnxruntime": "onnx"}.get(spec.runtime, spec.runtime)
    kind, parents = metadata.get("kind", kind), metadata.get("parents", {})
    settings = metadata.get("settings", {})
    texts = isinstance(parents, Mapping) and all(isinstance(text, str) for text in (kind, *parents, *parents.values()))
    if not texts or not isinstance(settings, Mapping) or not _is_json(settings):
        raise ModelError(
            f"{spec.path}: its visionlora metadata is broken: kind, parents or settings is of a wrong type"
        )
    return kind, parents, settings


def _is_json(fields: Mapping[str, Any]) -> bool:
    """Whether a report can hold what a file says about itself."""
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _trained_on(spec: ModelSpec, row: Row) -> Any:
    """Return what a model's card calls the content of its training data; None where it does not say."""
    said = row.settings if spec.adapter is None else read_adapter_card(spec.adapter).training
    hashes = said.get("data_sha256")
    return hashes.get("train") if isinstance(hashes, Mapping) else None


def _with_times(report: Report, networks: Sequence[Network], domain: EvaluationSplit) -> tuple[Row, ...]:
    """Return the rows with their milliseconds, measured in turns, beside those of the reference or of the first."""
    origin = report.rows.index(report.reference) if report.reference else 0
    measured = time_networks(networks, domain.images)
    rows = []
    for index, (row, turns) in enumerate(zip(report.rows, measured, strict=True)):
        other = None if index == origin else measured[origin]
        timing = timing_of(turns, other, to=report.rows[origin].label)
        rows.append(replace(row, ms_per_image=timing.median, timing=timing))
    return tuple(rows)


def _with_differences(report: Report, judgements: Sequence[ModelScores | None], against: str | None) -> tuple[Row, ...]:
    """Return the rows with their differences to the reference, to the complete model before, and to `against`."""
    rows = report.rows
    complete = [index for index, row in enumerate(rows) if row in report.complete_rows]
    origin = [index for index in complete if rows[index].label == against]
    result = []
    for index, row in enumerate(rows):
        before = [other for other in complete if other < index and index in complete]
        others = dict.fromkeys([*complete[:1], *before[-1:], *origin])
        pairs = [
            _difference(judgements[index], judgements[other], rows[other].label) for other in others if other != index
        ]
        result.append(replace(row, differences=tuple(change for change in pairs if change is not None)))
    return tuple(result)


def _difference(a: ModelScores | None, b: ModelScores | None, to: str) -> Difference | None:
    if a is None or b is None:
        return None
    return difference(a.scores, b.scores, draws=a.draws, other_draws=b.draws, to=to)


def _retention(
    specs: Sequence[ModelSpec], networks: Sequence[Network], source: EvaluationSplit, *, conf: float, cache: bool
) -> Retention:
    """Run every model on the retention set, and every adapter switched off."""
    remembered = []
    for spec, network in zip(specs, networks, strict=True):
        found = _find(spec, network, source, cache=cache)
        remembered.append(RetentionInput(spec.label, found, _judge(found, source, conf)))
        if spec.adapter is not None:
            off: Any = network
            with about(f"{spec.label} off"):
                found = find_objects(off.adapter_off(), source.images, source.names)
            remembered.append(RetentionInput(f"{spec.label} switched off", found, _judge(found, source, conf)))
    return measure_retention(remembered, source.used)


def _check_bases(specs: Sequence[ModelSpec], networks: Sequence[Network]) -> None:
    """Refuse retention where an adapter gave its base a task or other keypoints."""
    for spec, network in zip(specs, networks, strict=True):
        adapted: Any = network
        own = network.task if spec.adapter is None else adapted.adapter_off().task
        if own != network.task:
            raise UsageError(
                f"--retention: {spec.label} finds {_finds(network.task)}, and its base {_finds(own)}, so there is "
                "nothing to hold it to; leave --retention out"
            )


def _finds(task: Task) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in task.settings().items())
    return f"{task.noun} ({sizes})" if sizes else task.noun


def _sheet(specs: Sequence[ModelSpec], networks: Sequence[Network], domain: EvaluationSplit) -> NDArray[np.uint8]:
    """Return the contact sheet of the first model and the last: before and after."""
    shown = representative_images(domain.images)
    pixels = [read_image(image.path) for image in shown]
    columns = [
        Column(title=specs[index].label, names=networks[index].names, detections=detect(networks[index], pixels))
        for index in dict.fromkeys((0, len(networks) - 1))
    ]
    return before_after(shown, domain.names, columns, task=networks[0].task)


def _relative(path: Path, folder: Path) -> str:
    """Return a path as the cards of quantized files name their calibration images."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _command(models: Sequence[str | Path], options: Mapping[str, Any], *, html: bool) -> str:
    """Return the command line that makes the same report; options that are None are left out."""
    words = [word for model in models for word in ("--model", str(model))]
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return printable(shlex.join(["visionlora", "eval", *words, *(["--html"] if html else [])]))
