"""Evaluate several models on one data set under one ruler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage, content_hash, load_dataset
from visionlora.errors import ModelError, UsageError
from visionlora.evaluation.coco import count_classes
from visionlora.evaluation.compare import ModelScores, score_model, time_networks
from visionlora.evaluation.models import ModelSpec, open_network, parse_specs
from visionlora.evaluation.pictures import Column, before_after, telling_images
from visionlora.evaluation.report import DataUsed, Report, Row, installed_versions, this_machine
from visionlora.evaluation.writing import refuse_existing_report, write_report
from visionlora.files import sha256_of
from visionlora.inference import Network, detect
from visionlora.preprocess import read_image


def evaluate(
    models: Sequence[str | Path],
    data: Path | str,
    *,
    split: str = "val",
    imgsz: int | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> Report:
    """Score models of any kind on one data set: same images, same letterbox, same decoding, pycocotools.

    Models run on the CPU, so that their milliseconds can be compared.

    Args:
        models: checkpoints, ONNX files, or `base.pt+adapter.safetensors`; `label=` before one names it.
        data: the data.yaml.
        split: which of its splits.
        imgsz: side of the input in pixels; None takes what the files say, which must be one size.
        out: a folder for report.json, report.md and pictures; None writes nothing.
        overwrite: replace an earlier report.

    Raises:
        UsageError: a model is named wrongly, or the models differ in image size.
        DataError: the data set or an image cannot be used.
        ModelError: a model cannot be used.
        OutputError: there is a report already, or it cannot be written.

    Example:
        >>> report = evaluate(["base=yolo11n.pt", "runs/steel/model.onnx"], "data.yaml", out="report")  # doctest: +SKIP
        >>> report.rows[1].scores.map50_95  # doctest: +SKIP
        0.408
    """
    specs = parse_specs(models)
    if out is not None:
        refuse_existing_report(out, overwrite=overwrite)
    dataset = load_dataset(data, splits=(split,))
    images = dataset.split(split)
    networks = [open_network(spec, image_size=imgsz) for spec in specs]
    _check(specs, networks)
    scored = [score_model(network, images, dataset.names) for network in networks]
    milliseconds = time_networks(networks, images)
    report = Report(
        data=DataUsed(
            path=str(data),
            content_hash=content_hash(images),
            split=split,
            images=len(images),
            classes=count_classes(images, dataset.names),
        ),
        machine=this_machine(),
        versions=installed_versions(),
        rows=tuple(map(_row, specs, networks, scored, milliseconds)),
    )
    if out is not None:
        write_report(report, out, sheet=_sheet(specs, networks, images, dataset.names), overwrite=overwrite)
    return report


def _check(specs: Sequence[ModelSpec], networks: Sequence[Network]) -> None:
    """Refuse models that cannot stand in one report, before any time is spent on them."""
    if len({network.image_size for network in networks}) > 1:
        sizes = ", ".join(f"{spec.label} {one.image_size} px" for spec, one in zip(specs, networks, strict=True))
        raise UsageError(
            f"expected models of one image size, got {sizes}; pass --imgsz, or export the ONNX files again"
        )
    missing = [str(spec.file) for spec in specs if not spec.file.is_file()]
    if missing:  # a bare name may have been found in another folder
        raise ModelError(f"expected the files of all models, found none at {', '.join(missing)}; give their paths")


def _row(spec: ModelSpec, network: Network, scored: ModelScores, ms_per_image: float) -> Row:
    kind, parents = _provenance(spec, network)
    return Row(
        label=spec.label,
        file=str(spec.file),
        kind=kind,
        sha256=sha256_of(spec.file),
        bytes=spec.file.stat().st_size,
        image_size=network.image_size,
        classes=scored.classes,
        scores=scored.scores,
        ms_per_image=ms_per_image,
        parents=parents,
    )


def _provenance(spec: ModelSpec, network: Network) -> tuple[str, Mapping[str, str]]:
    """Return what the file is, and the role and SHA-256 of the files that it says it was made from."""
    if spec.adapter is not None:
        return "adapter", {"base": sha256_of(spec.path)}
    metadata = getattr(network, "metadata", None) or {}
    kind = "onnx" if spec.path.suffix == ".onnx" else "checkpoint"
    return metadata.get("kind", kind), metadata.get("parents", {})


def _sheet(
    specs: Sequence[ModelSpec], networks: Sequence[Network], images: Sequence[LabelledImage], names: Sequence[str]
) -> NDArray[np.uint8]:
    """Return the contact sheet of the first model and the last: before and after."""
    shown = telling_images(images)
    pixels = [read_image(image.path) for image in shown]
    columns = [
        Column(title=specs[index].label, names=networks[index].names, detections=detect(networks[index], pixels))
        for index in dict.fromkeys((0, len(networks) - 1))
    ]
    return before_after(shown, names, columns)
