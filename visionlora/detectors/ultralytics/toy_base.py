"""The toy base: a small detector, pretrained on generated shapes, carried in the package as half-precision tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import DetectionModel

from visionlora.detectors.checkpoints import UNREADABLE, pack, reason_of
from visionlora.errors import ModelError
from visionlora.files import atomic_output
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import class_names
from visionlora.tasks import DETECT

_FORMAT = 1
_KIND = "toy-base"
_KEY = "visionlora"  # the one metadata entry: JSON


@dataclass(frozen=True)
class BaseCard:
    """What a toy base says about itself.

    Attributes:
        model: the model's description, as Ultralytics' parser reads it from a model yaml.
        names: class names in the order of the class outputs.
        image_size: pixels of the square that it was trained on.
        provenance: command, seed, pictures and boxes, versions, date.
        scores: what Ultralytics measured on the validation pictures after training.
    """

    model: Mapping[str, Any]
    names: tuple[str, ...]
    image_size: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


def save_base(model: torch.nn.Module, card: BaseCard, path: Path | str) -> None:
    """Write a detector's weights in half precision, with its card, as one .safetensors file.

    Raises:
        ModelError: a weight is not finite in half precision.
        OutputError: the file cannot be written.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelError(f"{path}: {len(broken)} tensors are not finite in half precision, the first is {broken[0]}")
    text = json.dumps({"format": _FORMAT, "kind": _KIND, **asdict(card)}, sort_keys=True)
    with atomic_output(path) as partial:
        partial.write_bytes(save(tensors, metadata={_KEY: text}))


def write_base(path: Path | str, source: Path | str) -> None:
    """Write a toy base as an ordinary Ultralytics checkpoint, which `YOLO(path)` loads, validates and fine-tunes.

    Equal sources give equal weights; nothing is downloaded, and torch's random state is left as it was.

    Args:
        path: the checkpoint to write, ending in .pt.
        source: the .safetensors to read.

    Raises:
        ModelError: the source is missing, broken, no toy base, or its tensors do not fit its model.
        OutputError: the checkpoint cannot be written.
    """
    card, tensors = _read(source)
    try:
        with torch.random.fork_rng(devices=[]):
            model = DetectionModel(copy.deepcopy(dict(card.model)), ch=3, nc=len(card.names), verbose=False)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except UNREADABLE as error:
        reason = reason_of(error)
        raise ModelError(f"{source}: its tensors do not fit its model: {reason}") from error
    arguments = {"task": DETECT.name, "imgsz": card.image_size, "model": Path(path).name}
    for name, value in (("names", dict(enumerate(card.names))), ("task", DETECT.name), ("args", arguments)):
        setattr(model, name, value)
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": model.eval().half().requires_grad_(False),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": dict(arguments),
        "date": card.provenance.get("date", ""),
        "version": ultralytics_version,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    with atomic_output(path) as partial:
        partial.write_bytes(pack(checkpoint))


def _read(source: Path | str) -> tuple[BaseCard, dict[str, torch.Tensor]]:
    try:
        with safe_open(source, framework="pt") as file:
            fields = parse_json((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{source}: expected a toy base (.safetensors), cannot read it: {error}") from error
    if not isinstance(fields, dict) or fields.get("kind") != _KIND or fields.get("format") != _FORMAT:
        fields = fields if isinstance(fields, dict) else {}
        got = f"{fields.get('kind', 'no file of visionlora')} of format {fields.get('format', 0)}"
        raise ModelError(f"{source}: expected a {_KIND} of format {_FORMAT}, got {got}")
    try:
        return _card(fields), tensors
    except ValueError as error:
        raise ModelError(f"{source}: its card cannot be used: {error}") from error


def _card(fields: Mapping[str, Any]) -> BaseCard:
    model, size, provenance = fields.get("model"), fields.get("image_size"), fields.get("provenance", {})
    if not isinstance(model, dict) or not isinstance(provenance, dict) or not isinstance(fields.get("scores"), dict):
        raise ValueError("expected a model's description, its provenance and scores as mappings")
    if "activation" in model:  # Ultralytics evaluates it
        raise ValueError("expected a description without an activation of its own")
    if not isinstance(size, int) or not 1 <= size <= 65536:
        raise ValueError(f"expected an image size in pixels, got {size!r:.60}")
    return BaseCard(model, class_names(fields.get("names")), size, provenance, fields["scores"])
