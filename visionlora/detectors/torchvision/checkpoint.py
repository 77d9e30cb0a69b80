"""Reading and writing checkpoints of torchvision's detectors: a state dict, and what its outputs stand for."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import detection, get_model_weights, list_models
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from visionlora.cards import family_in
from visionlora.detectors.checkpoints import UNREADABLE, fingerprint, pack, reason_of
from visionlora.detectors.family import Base
from visionlora.detectors.safe_globals import only_allowed
from visionlora.detectors.torchvision.architectures import Architecture, looks_like_one, named, recognised
from visionlora.detectors.torchvision.classes import BACKGROUND, COCO, NOTHING, class_rows
from visionlora.detectors.torchvision.network import STRIDE, raw_prediction
from visionlora.errors import ModelError
from visionlora.formats.kinds import CHECKPOINT, STATE_DICT
from visionlora.formats.pickled import read_plain
from visionlora.formats.text import class_names
from visionlora.tasks import DETECT

FAMILY = "torchvision"
PUBLISHED = f"{FAMILY}:"
"""Before the name of one of torchvision's builders: its published weights."""
CARD_KEY = "visionlora"  # the entry of a checkpoint that holds our metadata as a plain dict
_EXPECTED = f"expected a torchvision checkpoint ({CHECKPOINT.suffix} or {STATE_DICT}) or {PUBLISHED}NAME"
_PARALLEL = "module."
_STATES = ("state_dict", "model")  # where a state dict lies: our files and many others, torchvision's training script
_SIZE = 800  # torchvision's `min_size`: what its published detectors were trained at
_LARGEST = 1 << 16  # pixels of a side
_EPS_0 = RetinaNet_ResNet50_FPN_Weights.COCO_V1.url.rpartition("/")[2]
"""The published file whose normalization divides by sigma alone (torchvision/models/detection/retinanet.py)."""


def refusal(path: Path) -> str:
    """Return why a path is no checkpoint of torchvision's, by its name and the keys in the file (see `Family`).

    A damaged file may be one.
    """
    text = str(path)
    if text.startswith(PUBLISHED):
        return ""
    if path.suffix not in (CHECKPOINT.suffix, STATE_DICT):
        return f"{_EXPECTED}, got {f'a {path.suffix} file' if path.suffix else 'a name without an ending'}"
    if path.is_dir():
        return f"{_EXPECTED}, got a folder"
    if not path.is_file() or not zipfile.is_zipfile(path):  # torch before 1.6 wrote another format
        return "" if path.suffix == STATE_DICT else f"{_EXPECTED}, got no file that names its tensors"
    try:
        entries = read_plain(path)
    except ModelError:
        return ""
    family = family_in(entries.get(CARD_KEY))
    if family not in (None, FAMILY):
        return f"{_EXPECTED}, got a detector of {family!r:.40}"
    return "" if looks_like_one(_state_in(entries)) else f"{_EXPECTED}, got a file without such a state dict"


def load_base(path: Path | str) -> Base:
    """Load a detector of torchvision's; `torchvision:NAME` is downloaded.

    Raises:
        ModelError: the file is missing, unreadable, or of no architecture that is known here.
    """
    path = _downloaded(str(path)) if str(path).startswith(PUBLISHED) else Path(path)
    if not path.is_file():
        raise ModelError(
            f"{path}: no such file; give a checkpoint, or a published one such as {PUBLISHED}fcos_resnet50_fpn"
        )
    try:
        with only_allowed([argparse.Namespace]):  # torchvision's training script writes its options along
            entries = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(entries, dict):
            raise ValueError(f"expected a state dict, got a {type(entries).__name__}")
        return _base_of(entries, path)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_refused(error)}") from error
    except UNREADABLE as error:
        reason = reason_of(error)
        raise ModelError(f"{path}: cannot be read as a torchvision checkpoint: {reason}") from error


def pack_checkpoint(base: Base, *, image_size: int, card: Mapping[str, Any]) -> bytes:
    """Return `base.model` as the bytes of a checkpoint in float32, with `card` in its own entry.

    Its `state_dict` is what torchvision's builder loads, made with as many classes as there are `categories`.
    """
    model: Any = base.model
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    architecture, _ = recognised(state)
    entries = {
        "architecture": architecture.name,
        "categories": list(model.categories),
        "image_size": image_size,
        "norm_eps": norm_eps(model),
        "state_dict": {name: each.float() if each.is_floating_point() else each for name, each in state.items()},
        **({CARD_KEY: json.loads(json.dumps(card))} if card else {}),
    }
    return pack(entries)


def norm_eps(model: nn.Module) -> float:
    """Return what batch normalization adds to the variance, which no state dict says."""
    return next((module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)), 1e-5)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a training gives."""
    return {package: version(package) for package in ("torch", "torchvision", "numpy")}


def sample_pictures() -> tuple[Path, ...]:
    """Return the photograph that matplotlib carries: torchvision has none."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).with_name("mpl-data") / "sample_data" / "grace_hopper.jpg",)


def detector(
    architecture: Architecture, categories: tuple[str, ...], *, state: Mapping[str, torch.Tensor] | None = None
) -> nn.Module:
    """Return a detector in eval mode, float32, whose outputs stand for `categories`; at random weights without a state.

    Raises:
        ValueError: the state does not fit.
    """
    with torch.random.fork_rng(devices=[], enabled=state is not None):
        model: Any = architecture.build(len(categories))
    model.categories = categories
    if state is not None:
        _check_fits(model, state)
        model.load_state_dict(state)
    return model.float().eval()


def _refused(error: pickle.UnpicklingError) -> str:
    """Say by name what torch's restricted reader did not follow, or that the file is damaged."""
    named = re.search(r"GLOBAL (\S+)|function (.+?)(?:$|\n)", str(error))
    if named is None:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or "it is damaged, or older than torch 1.6"
        return f"cannot be read as a torchvision checkpoint: {reason.strip().splitlines()[0]}"
    return (
        f"refused: expected tensors and plain values, got {named.group(1) or named.group(2)}, which is code; save "
        "model.state_dict() alone where it was made"
    )


def _check_fits(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Name the tensors of a state that a model has not, or has of another shape.

    Raises:
        ValueError: there are some.
    """
    own = model.state_dict()
    problems = {
        "missing": own.keys() - state.keys(),
        "unknown": state.keys() - own.keys(),
        "of another shape": {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape},
    }
    told = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if told:
        raise ValueError(f"its tensors are not those of torchvision's {type(model).__name__}: {'; '.join(told)}")


def _base_of(entries: Mapping[str, Any], path: Path) -> Base:
    state = _state_in(entries)
    if not looks_like_one(state) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise ValueError("expected the state dict of a detector of torchvision, got other content")
    architecture, outputs = recognised(state)
    stated = entries.get("architecture", architecture.name)
    if not isinstance(stated, str) or named(stated) != architecture:
        raise ValueError(f"its architecture is called {stated!r:.60}, and its tensors are those of {architecture.name}")
    categories = _categories(entries.get("categories"), outputs)
    model: Any = detector(architecture, categories, state=_plain(state))
    eps = entries.get("norm_eps", 0.0 if path.name == _EPS_0 else norm_eps(model))
    if not isinstance(eps, float) or not 0 <= eps < 1:
        raise ValueError(f"expected norm_eps to be a small number, got {eps!r:.40}")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    names = class_names([categories[row] for row in class_rows(categories)])
    _check_runs(model, len(names))
    return Base(
        model=model,
        path=path,
        names=names,
        image_size=_image_size(entries, architecture),
        fingerprint=fingerprint(model),
        stride=STRIDE,
        family=FAMILY,
        task=DETECT,
        card=_card(entries),
    )


def _state_in(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict that a file holds, or is, without the prefix that `DataParallel` gives each name."""
    held = next((entries[name] for name in _STATES if isinstance(entries.get(name), dict)), None)
    state = entries if held is None else held
    if not all(isinstance(name, str) and name.startswith(_PARALLEL) for name in state):
        return state
    return {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}


def _plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with the counters of norms, which frozen ones (`FrozenBatchNorm2d`) have none of."""
    counters = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return {**counters, **state}


def _categories(stated: Any, outputs: int) -> tuple[str, ...]:
    """Return what the outputs stand for: what the file says, COCO's for as many as these, else numbered classes."""
    if stated is None:
        return COCO if outputs == len(COCO) else (BACKGROUND, *(f"class{row}" for row in range(1, outputs)))
    if not isinstance(stated, list | tuple) or not all(isinstance(name, str) for name in stated):
        raise ValueError(f"expected categories to be a list of names, got {stated!r:.60}")
    real = [stated[row] for row in class_rows(stated)]
    if len(stated) != outputs or stated[0] != BACKGROUND or not real or len({*real}) < len(real):
        raise ValueError(
            f"expected {outputs} categories, {BACKGROUND} the first and others that differ or are {NOTHING}, "
            f"got {len(stated)}: {', '.join(stated)!s:.100}"
        )
    return tuple(stated)


def _image_size(entries: Mapping[str, Any], architecture: Architecture) -> int:
    size = entries.get("image_size", 320 if architecture.detector == "ssdlite" else _SIZE)
    if type(size) is not int or not 1 <= size <= _LARGEST:
        raise ValueError(f"expected image_size to be pixels, got {size!r:.60}")
    return size


def _card(entries: Mapping[str, Any]) -> Mapping[str, Any] | None:
    card = entries.get(CARD_KEY)
    if card is None:
        return None
    if not isinstance(card, dict) or not isinstance(card.get("kind"), str):
        raise ValueError("expected visionlora's card to say what kind of file this is")
    return json.loads(json.dumps(card))


@torch.no_grad()
def _check_runs(model: nn.Module, classes: int) -> None:
    """Run the model on a small picture, so that a damaged one is met here."""
    (returned,) = raw_prediction(model, torch.zeros(1, 3, 64, 64))
    rows = DETECT.rows(classes)
    if returned.shape[:2] != (1, rows):
        raise ValueError(f"expected a prediction (1, {rows}, anchors), got {tuple(returned.shape)}")
    if not returned.isfinite().all():
        raise ValueError("its tensors hold, or give, values that are no numbers")


def _published(text: str) -> Any:
    """Return the weights that torchvision publishes under `torchvision:NAME`.

    Raises:
        ModelError: it publishes none of that name, or of a detector that is not known here.
    """
    name = text.removeprefix(PUBLISHED)
    try:
        named(name)
        if name not in list_models(module=detection):
            raise ValueError(f"torchvision publishes no weights called {name}")
    except ValueError as error:
        raise ModelError(f"{text}: {error}") from error
    return get_model_weights(name).DEFAULT  # type: ignore[attr-defined]


def _downloaded(text: str) -> Path:
    """Return the file of published weights in the working directory, downloaded if it is not there.

    Raises:
        ModelError: torchvision publishes none of this name, or they cannot be downloaded.
    """
    weights = _published(text)
    path = Path(weights.url.rpartition("/")[2])
    if not path.is_file():
        try:
            torch.hub.download_url_to_file(weights.url, str(path), path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"{text}: {path} is not here, and cannot be downloaded from {weights.url}: {error}; put it here, or "
                "pass the path of a checkpoint on this machine"
            ) from error
    return path
