"""Evaluate several models on one data set under one ruler."""

from __future__ import annotations

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

from visionlora.detections import PREDICTION_CONFIDENCE, check_thresholds
from visionlora.errors import ModelError, UsageError
from visionlora.evaluation.budget import check_budget, judge_budget
from visionlora.evaluation.compare import time_networks
from visionlora.evaluation.domain import Domain, leave_out_unused, load_domain
from visionlora.evaluation.finding import Found, find_objects, shared_classes
from visionlora.evaluation.judgement import Judgement, difference, judge
from visionlora.evaluation.lineage import find_warnings
from visionlora.evaluation.machine import installed_versions, this_machine
from visionlora.evaluation.models import ModelSpec, open_network, parse_specs
from visionlora.evaluation.parameters import count_parameters
from visionlora.evaluation.pictures import Column, before_after, telling_images
from visionlora.evaluation.report import Budget, Difference, Report, Retention, Row
from visionlora.evaluation.retention import Remembered, check_base, measure_retention
from visionlora.evaluation.words import list_words
from visionlora.evaluation.writing import Evidence, refuse_existing_report, write_report
from visionlora.files import sha256_of
from visionlora.inference import Network, detect
from visionlora.lowrank import adapter_identity, read_adapter_card
from visionlora.preprocess import read_image


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
    cache: bool = True,
    overwrite: bool = False,
) -> Report:
    """Score models of any kind on one data set: same images, same letterbox, same decoding, pycocotools.

    Models run on the CPU, so that their milliseconds can be compared. The first model that knows all the classes is the
    reference; every difference to it has a 95 % interval by a paired bootstrap over the images.

    Args:
        models: checkpoints, exported files (.onnx, OpenVINO's .xml, ncnn's .param, LiteRT's .tflite;
            `openvino:model.onnx` runs it in OpenVINO), or `base.pt+adapter.safetensors`; `label=` before one names it.
        data: the data.yaml, or a COCO ground truth (.json) with its pictures beside it.
        split: which of its splits; a COCO file has one.
        imgsz: side of the input in pixels; None takes what the files say, which must be one size.
        conf: the score threshold for precision, recall, misses and false alarms.
        retention: data.yaml of the base's source domain; its val split shows what the models have forgotten.
        max_drop: budget: how much mAP50-95 a model may lose against the reference, as a fraction of 1.
        max_class_drop: budget: how much AP50-95 of any class it may lose.
        min_map50: budget: the mAP50 that it must reach.
        against: label of the model that the budget counts losses from and that the models held to it follow; None is
            the reference.
        out: a folder for report.json, report.md and pictures; None writes nothing.
        html: write report.html too, one page that needs no network.
        cache: take what a model found on these images from an earlier evaluation, if nothing has changed since.
        overwrite: replace an earlier report.

    Returns:
        The report; `report.passed` says whether the budget is kept.

    Raises:
        UsageError: a model is named wrongly, the models differ in image size, or an option is out of range.
        DataError: the data set or an image cannot be used.
        ModelError: a model cannot be used.
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
    specs = parse_specs(models)
    if against not in (None, *(spec.label for spec in specs)):
        raise UsageError(f"against: expected one of {', '.join(spec.label for spec in specs)}, got {against!r}")
    if out is None and html:
        raise UsageError("html: expected a folder to write report.html into; give --out")
    if out is not None:
        refuse_existing_report(out, overwrite=overwrite)
    domain = load_domain(data, split)
    source = None if retention is None else load_domain(retention, "val")
    networks = [open_network(spec, image_size=imgsz) for spec in specs]
    _check(specs, networks)
    domain, unused = leave_out_unused(domain, {name for network in networks for name in network.names})
    if source is not None:
        check_base(specs[0].label, shared_classes(networks[0], source.names), source.used)
    found = [_find(spec, network, domain, cache=cache) for spec, network in zip(specs, networks, strict=True)]
    judgements = [_judge(one, domain, conf) for one in found]
    milliseconds = time_networks(networks, domain.images)
    rows = tuple(map(_row, specs, networks, found, judgements, milliseconds))
    report = Report(
        data=domain.used,
        machine=this_machine(),
        versions=installed_versions(),
        rows=_with_differences(rows, judgements, domain.names, against),
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
                "out": out,
            },
            html=html,
        ),
        retention=None if source is None else _retention(specs, networks, source, conf=conf, cache=cache),
    )
    report = replace(
        report,
        warnings=(
            *find_warnings(
                report,
                [_relative(one.path, Path(data).parent) for one in domain.images],
                {spec.label: network.names for spec, network in zip(specs, networks, strict=True)},
            ),
            *_unused_classes(unused),
        ),
        verdict=judge_budget(report, budget, against),
        seconds=round(time.monotonic() - started, 1),
    )
    if out is not None:
        sheet = _sheet(specs, networks, domain)
        evidence = Evidence(domain.images, domain.hashes, tuple(judgements), sheet)
        report = write_report(report, out, evidence=evidence, html=html, overwrite=overwrite)
    return report


def _check(specs: Sequence[ModelSpec], networks: Sequence[Network]) -> None:
    """Refuse models that cannot stand in one report, before any time is spent on them."""
    if len({network.image_size for network in networks}) > 1:
        sizes = ", ".join(f"{spec.label} {one.image_size} px" for spec, one in zip(specs, networks, strict=True))
        raise UsageError(
            f"expected models of one image size, got {sizes}; pass --imgsz, or export the ONNX files again"
        )
    missing = [str(path) for spec in specs for path in spec.parts if not path.is_file()]
    if missing:  # a bare name may have been found in another folder
        raise ModelError(f"expected the files of all models, found none at {', '.join(missing)}; give their paths")


def _find(spec: ModelSpec, network: Network, domain: Domain, *, cache: bool) -> Found:
    return domain.find(network, [spec.path, *spec.parts], progress=spec.label, runtime=spec.runtime, cache=cache)


def _judge(found: Found, domain: Domain, confidence: float) -> Judgement | None:
    return judge(found, domain.images, domain.names, weights=domain.weights, confidence=confidence)


def _row(spec: ModelSpec, network: Network, found: Found, judgement: Judgement | None, milliseconds: float) -> Row:
    kind, parents, settings = _provenance(spec, network)
    return Row(
        label=spec.label,
        file=str(spec.file),
        kind=kind,
        sha256=sha256_of(*spec.parts),
        bytes=sum(path.stat().st_size for path in spec.parts),
        image_size=network.image_size,
        classes=found.classes,
        scores=judgement.scores if judgement else None,
        ms_per_image=milliseconds,
        parents=parents,
        parameters=count_parameters(spec, network),
        settings=settings,
        operating=judgement.operating if judgement else None,
        calibration=judgement.calibration if judgement else None,
    )


def _provenance(spec: ModelSpec, network: Network) -> tuple[str, Mapping[str, str], Mapping[str, Any]]:
    """Return what the file is, role and SHA-256 of the files that it says it was made from, and how it was made."""
    if spec.adapter is not None:
        base = read_adapter_card(spec.adapter).base["fingerprint"]
        parents = {"base": base, "adapter": adapter_identity(spec.adapter)}
        return "adapter", parents, {}
    metadata = getattr(network, "metadata", None) or {}
    kind = {"torch": "checkpoint", "onnxruntime": "onnx"}.get(spec.runtime, spec.runtime)
    return metadata.get("kind", kind), metadata.get("parents", {}), metadata.get("settings", {})


def _with_differences(
    rows: tuple[Row, ...], judgements: Sequence[Judgement | None], names: Sequence[str], against: str | None
) -> tuple[Row, ...]:
    """Return the rows with their differences to the reference, to the complete model before, and to `against`."""
    complete = [index for index, row in enumerate(rows) if row.scores is not None and set(row.classes) == set(names)]
    origin = [index for index in complete if rows[index].label == against]
    result = []
    for index, row in enumerate(rows):
        before = [other for other in complete if other < index and index in complete]
        others = dict.fromkeys([*complete[:1], *before[-1:], *origin])
        pairs = [
            _difference(judgements[index], judgements[other], rows[other].label) for other in others if other != index
        ]
        result.append(replace(row, differences=tuple(one for one in pairs if one is not None)))
    return tuple(result)


def _difference(a: Judgement | None, b: Judgement | None, to: str) -> Difference | None:
    if a is None or b is None:
        return None
    return difference(a.scores, b.scores, draws=a.draws, other_draws=b.draws, to=to)


def _retention(
    specs: Sequence[ModelSpec], networks: Sequence[Network], source: Domain, *, conf: float, cache: bool
) -> Retention:
    """Run every model on the retention set, and every adapter switched off."""
    remembered = []
    for spec, network in zip(specs, networks, strict=True):
        found = _find(spec, network, source, cache=cache)
        remembered.append(Remembered(spec.label, found, _judge(found, source, conf)))
        if spec.adapter is not None:
            off: Any = network
            found = find_objects(off.adapter_off(), source.images, source.names, progress=f"{spec.label} off")
            remembered.append(Remembered(f"{spec.label} switched off", found, _judge(found, source, conf)))
    return measure_retention(remembered, source.used)


def _unused_classes(names: Sequence[str]) -> list[str]:
    """Say which classes of the data were left out."""
    if not names:
        return []
    return [f"Left out, as the data has no object of it and no model knows it: {list_words(names)}."]


def _sheet(specs: Sequence[ModelSpec], networks: Sequence[Network], domain: Domain) -> NDArray[np.uint8]:
    """Return the contact sheet of the first model and the last: before and after."""
    shown = telling_images(domain.images)
    pixels = [read_image(image.path) for image in shown]
    columns = [
        Column(title=specs[index].label, names=networks[index].names, detections=detect(networks[index], pixels))
        for index in dict.fromkeys((0, len(networks) - 1))
    ]
    return before_after(shown, domain.names, columns)


def _relative(path: Path, folder: Path) -> str:
    """Return a path as the cards of quantized files name their calibration images."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _command(models: Sequence[str | Path], options: Mapping[str, Any], *, html: bool) -> str:
    """Return the command line that makes the same report; options that are None are left out."""
    words = [word for model in models for word in ("--model", str(model))]
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["visionlora", "eval", *words, *(["--html"] if html else [])])
