"""The model card: README.md with metadata as the hub reads it, and what a person wants to know of an adapter."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import yaml

from visionlora.formats.text import printable, size_words
from visionlora.publishing.files import ADAPTER_FILE, CURVES, DETECTIONS, SCORES, AdapterFiles
from visionlora.reporting import code
from visionlora.tasks import task_of

_PIPELINES = {
    "detect": "object-detection",
    "segment": "image-segmentation",
    "pose": "keypoint-detection",
    "obb": "object-detection",
    "classify": "image-classification",
}
"""What the hub calls a task."""
_BASES = {
    "yolov5[nsmlx]6?u": "Ultralytics/YOLOv5",
    "yolov8[nsmlx]": "Ultralytics/YOLOv8",
    "yolo11[nsmlx]": "Ultralytics/YOLO11",
    "yolo26[nsmlx]": "Ultralytics/YOLO26",
}
"""Where Ultralytics keeps its checkpoints on the hub, by the names that it gives them."""
_METRICS = {"map50_95": "mAP50-95", "map50": "mAP50", "map75": "mAP75"}
_ACCURACIES = {"map50_95": "top-1", "map50": "top-5"}
"""In the fields where the scores of a classifier stand."""
_ANY_BASE = "base.pt"


def model_card(files: AdapterFiles, repository: str, *, licence: str) -> str:
    """Return README.md of an adapter.

    Args:
        files: the adapter, and the report and the pictures that are shown.
        repository: where it will lie, `owner/name`.
        licence: as the hub calls it, such as `agpl-3.0`.
    """
    title = repository.partition("/")[2]
    metadata = yaml.safe_dump(_metadata(files, title, licence), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{metadata}---",
        f"# {title}",
        _what_it_is(files),
        _use(files, repository),
        f"## Classes\n\n{', '.join(f'{index} {code(name)}' for index, name in enumerate(files.card.names))}",
        _preprocessing(files),
        _results(files),
        _training(files),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(files: AdapterFiles, title: str, licence: str) -> dict[str, Any]:
    card = files.card
    base = next((home for name, home in _BASES.items() if re.fullmatch(rf"{name}\.pt", _base_name(files))), None)
    pipeline = _PIPELINES.get(card.task)
    int8 = ["int8"] if card.quantization else []
    result = _result(files)
    return {
        "license": licence,
        "library_name": "visionlora",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        **({"base_model": base, "base_model_relation": "adapter"} if base else {}),
        "tags": ["visionlora", card.settings.method.name, printable(card.base.get("family", "ultralytics")), *int8],
        **({"model-index": [{"name": title, "results": [result]}]} if result["metrics"] else {}),
    }


def _result(files: AdapterFiles) -> dict[str, Any]:
    """Return the scores as the hub reads them; the data set is called by its file, a data.yaml by its folder."""
    report, scores = files.report, None if files.row is None else files.row.scores
    if report is None or scores is None:
        return {"metrics": []}
    path = PurePath(report.data.path)
    data = printable((path.parent.name if path.stem == "data" else path.stem) or "data")
    boxes = task_of(files.card.task, "the adapter").boxes
    found = {name: getattr(scores, field) for field, name in (_METRICS if boxes else _ACCURACIES).items()}
    return {
        "task": {"type": _PIPELINES.get(files.card.task, files.card.task)},
        "dataset": {"name": data, "type": data, "split": printable(report.data.split)},
        "metrics": [
            {"type": "map" if boxes else "accuracy", "name": name, "value": round(score, 5)}
            for name, score in found.items()
            if score is not None
        ],
    }


def _what_it_is(files: AdapterFiles) -> str:
    card = files.card
    size = size_words(len(files.content[ADAPTER_FILE]))
    made = "classifier" if card.task == "classify" else "detector"
    return (
        f"An adapter ({card.settings.method.name}) of {size} that makes a {made} of {len(card.names)} "
        f"class{'es' * (len(card.names) != 1)} out of {code(card.base.get('name', _ANY_BASE))}. It belongs to "
        f"that base alone, the one whose weights have the fingerprint {code(card.base['fingerprint'])}, and is refused "
        "on any other. It is a safetensors file: reading it runs no code. Made with visionlora "
        f"{code(card.version)}."
    )


def _use(files: AdapterFiles, repository: str) -> str:
    base, name = _base_name(files), f"hf://{repository}"
    return (
        "## Use\n\n```\n"
        f"visionlora predict --model {base}+{name} --source pictures --out found\n"
        f"visionlora merge --model {base} --adapter {name} --out merged.pt\n"
        f"visionlora pull {name} --out {repository.partition('/')[2]}\n```\n\n"
        "`merged.pt` is an ordinary Ultralytics checkpoint, which `visionlora export` and `visionlora quantize` take."
    )


def _preprocessing(files: AdapterFiles) -> str:
    given = files.card.preprocessing
    size = files.card.image_size
    if "crop" in given:
        return (
            f"## Preprocessing\n\nThe picture's {given['resize']} is scaled to {size} pixels and the {given['crop']} "
            f"cut out; {given['channels']}, times {given['scale']}. The commands above do this."
        )
    return (
        f"## Preprocessing\n\nThe picture is scaled to fit into {size} x {size} pixels and centred on grey "
        f"({given['padding']}); {given['channels']}, times {given['scale']}. The commands above do this."
    )


def _results(files: AdapterFiles) -> str:
    report = files.report
    if report is None:
        task = task_of(files.card.task, "the adapter")
        scores = [files.card.scores.get(key) for key in task.score_keys]
        if not all(isinstance(score, float) for score in scores):
            return ""
        (first, second, _), (one, other) = task.score_words, scores
        return f"## Results\n\nOn the validation images of its training: {first} {one:.3f}, {second} {other:.3f}."
    pictures = [("Scores", SCORES), ("Ground truth and detections", DETECTIONS)]
    parts = [
        f"## Results\n\n{report.data.images} images (split {code(report.data.split)}). One letterbox, one decoding and "
        "one suppression for all models; average precision by pycocotools, as fractions of 1.",
        *(f"**Take care**: {sentence}" for sentence in report.warnings),
        str(report),
        *(f"![{title}]({file})" for title, file in pictures if file in files.content),
    ]
    return "\n\n".join(parts)


def _training(files: AdapterFiles) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in files.card.settings.to_fields().items())
    curves = f"\n\n![Losses and scores, epoch by epoch]({CURVES})" if CURVES in files.content else ""
    return f"## Training\n\n{code(settings)}{curves}"


def _base_name(files: AdapterFiles) -> str:
    """Return what a command calls the base: its name, where that is a plain one."""
    name = files.card.base.get("name", "")
    return name if re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII) else _ANY_BASE
