"""Cards: what each file that visionlora writes says about itself, as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from visionlora.tasks import Task, task_fields
from visionlora.vision.preprocess import LETTERBOX

FORMAT = 1
RECIPE_KEY = "visionlora_quantization"
"""The metadata entry of a float ONNX file that holds the ranges its adapter was trained with, for `quantize`."""
LICENCES: Mapping[str, str] = {"ultralytics": "AGPL-3.0-only", "torchvision": "BSD-3-Clause"}
"""Of the detectors of a family, as SPDX expressions, for the files made of them."""


def preprocessing_card(image_size: int, preprocessing: Mapping[str, Any] = LETTERBOX) -> dict[str, Any]:
    """Return how an image becomes the input of a network whose square input has this side in pixels.

    Args:
        image_size: the side.
        preprocessing: that of its task.
    """
    return {"image_size": image_size, **preprocessing}


def data_hashes(fields: Any) -> dict[str, dict[str, str]]:
    """Return what the next card's `settings` take over: the content hashes of the splits that were trained on.

    Args:
        fields: an adapter card's `training`, or the `settings` of another card, as a file states them.

    Example:
        >>> data_hashes({"data_sha256": {"train": "ab", "val": "cd"}, "seed": 0})
        {'data_sha256': {'train': 'ab', 'val': 'cd'}}
        >>> data_hashes({"data_sha256": 3})
        {}
    """
    said = fields.get("data_sha256") if isinstance(fields, Mapping) else None
    hashes = {split: said[split] for split in ("train", "val") if split in said} if isinstance(said, Mapping) else {}
    return {"data_sha256": hashes} if hashes and all(isinstance(value, str) for value in hashes.values()) else {}


def family_in(card: Any) -> str | None:
    """Return the family that a file's card names, for the card of what is made from it; None where it names none."""
    named = card.get("family") if isinstance(card, Mapping) else None
    return named if isinstance(named, str) else None


def licence_of(family: str | None) -> str:
    """Return the licence of a family's detectors, as an SPDX expression; of files that name none, Ultralytics'.

    Example:
        >>> licence_of("torchvision")
        'BSD-3-Clause'
    """
    return LICENCES.get(family or "", LICENCES["ultralytics"])


def make_card(
    kind: str,
    *,
    names: Sequence[str],
    image_size: int,
    parents: Mapping[str, str],
    settings: Mapping[str, Any],
    task: Task,
    family: str | None,
) -> dict[str, Any]:
    """Return the card of a detector file.

    Args:
        kind: `merged`, `onnx` or `int8`.
        names: class names in the order of the class outputs.
        image_size: side of the square input in pixels.
        parents: SHA-256 by role of what the file was made from.
        settings: the settings that made it.
        task: what the detector finds; its sizes are named where it has some.
        family: name of the family of detectors that it is of; None leaves it out.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        **task_fields(task),
        **({} if family is None else {"family": family}),
        "names": list(names),
        "preprocessing": preprocessing_card(image_size, task.preprocessing),
        "nms": True,
        "parents": dict(parents),
        "settings": dict(settings),
        "version": version("visionlora"),
    }
