"""What an exported file says of its detector: class names, size of the input, and visionlora's card."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from visionlora.errors import ModelError
from visionlora.seal import check_entry, is_sealed

METADATA = "metadata.yaml"
"""Beside the one OpenVINO or ncnn model of a folder: what Ultralytics writes about it."""
OWN_METADATA = f".{METADATA}"
"""Suffix of the same with visionlora's card, in place of the model's: `model.metadata.yaml` beside `model.xml`."""


@dataclass(frozen=True)
class Description:
    """Class names, side of the square input in pixels, and the card; None for a file of another maker."""

    names: tuple[str, ...]
    image_size: int
    card: Mapping[str, Any] | None


def described_beside(path: Path) -> Description:
    """Read the description beside a model of two files, `path` and one that ends in .bin.

    It is `model.metadata.yaml` beside `model.xml`, or else `metadata.yaml` where the folder holds no other model.

    Raises:
        ModelError: one of the files is missing, or the description is broken, of another task or perhaps of another
            model.
    """
    if not path.is_file() or not path.with_suffix(".bin").is_file():
        raise ModelError(f"{path}: expected a model of two files, {path.suffix} and .bin, found none")
    beside = _description_file(path)
    try:
        fields = yaml.safe_load(beside.read_text(encoding="utf-8"))
        return _description(path, fields, fields["names"], fields["imgsz"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{beside}: expected names and imgsz, as Ultralytics writes them: {error!r}") from error


def _description_file(path: Path) -> Path:
    own, shared = path.with_suffix(OWN_METADATA), path.with_name(METADATA)
    if own.is_file():
        return own
    if not shared.is_file():
        raise ModelError(f"{path}: expected names and imgsz in {own.name} or {METADATA} beside it, found neither file")
    files = sorted([*path.parent.glob("*.xml"), *path.parent.glob("*.param")])
    models = [file.name for file in files if file.with_suffix(".bin").is_file()]
    if len(models) > 1:
        raise ModelError(
            f"{path}: expected {own.name} beside it, found {METADATA}, which may be of any of {', '.join(models)}; "
            f"if it is of this model, copy it to {own.name}, else export the model again"
        )
    return shared


def described_inside(path: Path) -> Description:
    """Read the metadata entries of an ONNX file.

    Raises:
        ModelError: the file is missing or broken, of another task, or does not say its classes and size.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ModelError(f"{path}: expected an ONNX file, found none")
    try:
        sealed = is_sealed(path)
        fields = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        check_entry(path, fields, sealed=sealed)
        if "visionlora" in fields:
            card = json.loads(fields["visionlora"])
            return Description(tuple(card["names"]), int(card["preprocessing"]["image_size"]), card)
        return _description(path, fields, ast.literal_eval(fields["names"]), ast.literal_eval(fields["imgsz"]))
    except (OSError, DecodeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ModelError(
            f"{path}: expected an ONNX detector with names and imgsz in its metadata: {error!r}"
        ) from error


def _description(path: Path, fields: Mapping[str, Any], names: Any, size: Any) -> Description:
    task = fields.get("task", "detect")
    height, width = (int(side) for side in size)
    if task != "detect" or height != width:
        raise ModelError(f"{path}: expected a detector of a square input, got task {task!r}, {height} x {width} pixels")
    card = json.loads(fields["visionlora"]) if "visionlora" in fields else None
    return Description(tuple(str(names[i]) for i in range(len(names))), height, card)
