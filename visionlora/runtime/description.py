"""What an exported file says of its detector: class names, size of the input, form of the output, visionlora's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError
from visionlora.formats.kinds import KINDS, METADATA, OWN_METADATA, WEIGHTS
from visionlora.formats.parsing import parse_json, parse_literal
from visionlora.formats.seal import check_entry, is_sealed
from visionlora.formats.text import class_names
from visionlora.tasks import DETECT, Task, task_of, task_on

ULTRALYTICS_CUT = 0.25
"""The confidence at which an export with `nms=True` drops boxes where none was given (ultralytics/engine/exporter.py);
the file does not state it."""
_MAX_METADATA_BYTES = 4 << 20


@dataclass(frozen=True)
class Stated:
    """What metadata says of the form of an output.

    Attributes:
        end_to_end: whether rows are final detections and not raw predictions; None where it is not said.
        batch: how many pictures the graph was made for; None where it is not said.
        cut: the confidence at which suppression inside the graph drops boxes; None where there is none.
        head: the class of the detector's head; empty where it is not said.
    """

    end_to_end: bool | None = None
    batch: int | None = None
    cut: float | None = None
    head: str = ""


@dataclass(frozen=True)
class Description:
    """The task, class names, side of the square input in pixels, the card, None of another maker, and the output."""

    task: Task
    names: tuple[str, ...]
    image_size: int
    card: Mapping[str, Any] | None
    stated: Stated


def described_beside(path: Path) -> Description:
    """Read the description beside a model of two files, `path` and one that ends in .bin.

    It is `model.metadata.yaml` beside `model.xml`, or else `metadata.yaml` where the folder holds no other model.

    Raises:
        ModelError: one of the files is missing, or the description is broken, of another task or perhaps of another
            model.
    """
    if not path.is_file() or not path.with_suffix(WEIGHTS).is_file():
        raise ModelError(f"{path}: expected a model of two files, {path.suffix} and {WEIGHTS}, found none")
    from visionlora.formats.yaml_text import parse_yaml

    beside = _description_file(path)
    try:
        with open(beside, "rb") as file:
            fields = parse_yaml(file.read(_MAX_METADATA_BYTES + 1))
        if not isinstance(fields, dict):
            raise ValueError("expected fields, got none")
        return described(path, fields)
    except (OSError, ValueError) as error:
        raise ModelError(f"{beside}: expected names and imgsz, as Ultralytics writes them: {error}") from error


def _description_file(path: Path) -> Path:
    own, shared = path.with_suffix(OWN_METADATA), path.with_name(METADATA)
    if own.is_file():
        return own
    if not shared.is_file():
        raise ModelError(f"{path}: expected names and imgsz in {own.name} or {METADATA} beside it, found neither file")
    suffixes = [kind.suffix for kind in KINDS.values() if kind.weights]
    files = sorted(file for suffix in suffixes for file in path.parent.glob(f"*{suffix}"))
    models = [file.name for file in files if file.with_suffix(WEIGHTS).is_file()]
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
        model = onnx.load(path, load_external_data=False)
        fields = {entry.key: entry.value for entry in model.metadata_props}
        check_entry(path, fields, sealed=sealed)
        return described(path, fields)
    except (OSError, DecodeError, ValueError) as error:
        raise ModelError(f"{path}: expected an ONNX detector with names and imgsz in its metadata: {error}") from error


def described(path: Path, fields: Mapping[str, Any]) -> Description:
    """Return what metadata fields say; the values may be text, as an ONNX file holds them.

    Raises:
        ModelError: the model is of another task, or its input is not square.
        ValueError: the fields do not say classes and size, or say what cannot be.
    """
    card = parse_json(fields["visionlora"]) if isinstance(fields.get("visionlora"), str) else None
    if card is not None and not isinstance(card, dict):
        raise ValueError("expected the visionlora entry to be an object")
    task = stated_task(path, fields, card)
    if card is not None and "names" in card:
        names, size = card["names"], _image_size(card)
    else:
        names, size = _field(fields, "names"), _field(fields, "imgsz")
    sides = size if isinstance(size, list | tuple) else [size] * 2
    if len(sides) != 2 or not all(_whole(side) for side in sides):
        raise ValueError(f"expected imgsz to be height and width in pixels, got {size!r:.60}")
    height, width = (int(side) for side in sides)
    if height != width:
        raise ModelError(
            f"{path}: expected a detector of a square input, got task {task.name!r}, {height} x {width} pixels"
        )
    return Description(task, class_names(names), height, card, stated(fields))


def stated_task(
    path: Path, fields: Mapping[str, Any], card: Mapping[str, Any] | None, prototypes: int | None = None
) -> Task:
    """Return the task that a file's card or metadata fields name, with its sizes; detection where they name none.

    Args:
        path: the file, for messages.
        fields: its metadata; where the card names no task, as Ultralytics writes it.
        card: visionlora's; None where there is none.
        prototypes: how many prototypes of masks its graph gives; None where that is not known.

    Raises:
        ModelError: there is no such task, or not of such sizes.
        ValueError: the sizes cannot be parsed.
    """
    if "task" in (card or {}):
        return task_on(card or {}, path)
    name, settings = fields.get("task", DETECT.name), None
    if name == "pose" and "kpt_shape" in fields:
        shape = _field(fields, "kpt_shape")
        if not isinstance(shape, list | tuple) or len(shape) != 2:
            raise ValueError(f"expected kpt_shape to be how many keypoints of how many numbers, got {shape!r:.60}")
        settings = {"keypoints": shape[0], "dims": shape[1]}
    if name == "segment" and prototypes is not None:
        settings = {"coefficients": prototypes}
    return task_of(name, path, settings)


def stated(fields: Mapping[str, Any]) -> Stated:
    """Return what the metadata of a foreign file says of its output, as Ultralytics writes it.

    Raises:
        ValueError: what it says cannot be parsed.
    """
    given = fields.get("args")
    arguments = parse_literal(given) if isinstance(given, str) else given
    arguments = arguments if isinstance(arguments, Mapping) else {}
    suppresses, end_to_end = _truth(arguments.get("nms")), _truth(fields.get("end2end"))
    # Before it wrote `end2end`, Ultralytics did not say of YOLOv10 that its rows are final.
    batch = str(fields.get("batch", "")).strip()
    return Stated(
        end_to_end=True if suppresses else end_to_end,
        batch=int(batch) if _whole(batch) else None,
        cut=_confidence(arguments.get("conf")) if suppresses else None,
        head=str(fields.get("head", "")),
    )


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"found no {name}")
    value = fields[name]
    return parse_literal(value) if isinstance(value, str) else value


def _image_size(card: Mapping[str, Any]) -> Any:
    preprocessing = card.get("preprocessing")
    return preprocessing.get("image_size") if isinstance(preprocessing, dict) else None


def _whole(value: Any) -> bool:
    """Whether a number or its text is a whole number above zero that can count pixels or pictures."""
    text = str(value)
    return not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) < 8 and int(text) > 0


def _truth(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).strip().lower())


def _confidence(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return ULTRALYTICS_CUT
    return number if 0 <= number <= 1 else ULTRALYTICS_CUT
