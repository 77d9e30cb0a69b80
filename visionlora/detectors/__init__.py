"""The families of detectors, one room each, and which of them a checkpoint or a base is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.errors import ModelError

if TYPE_CHECKING:
    from visionlora.detectors.family import Base, Family


def _ultralytics() -> Family:
    from visionlora.detectors.ultralytics.family import ULTRALYTICS

    return ULTRALYTICS


def _torchvision() -> Family:
    from visionlora.detectors.torchvision.family import TORCHVISION

    return TORCHVISION


FAMILIES: Mapping[str, Callable[[], Family]] = {"ultralytics": _ultralytics, "torchvision": _torchvision}
"""What loads the room of each family, with torch and its framework, by the names that cards use.

In this order they are asked whether a file is theirs.
"""


def family_named(name: str, where: Path | str) -> Family:
    """Return the family that a card names.

    Raises:
        ModelError: no family has this name; `where`, the file that says it, is named.
    """
    if name not in FAMILIES:
        raise ModelError(f"{where}: expected a detector of {' or '.join(FAMILIES)}, got one of {name!r:.40}")
    return FAMILIES[name]()


def family_of(source: Base | Path | str) -> Family:
    """Return the family of a base, or the first one that takes the checkpoint at a path, or of a name, for its own.

    Raises:
        ModelError: no family does; it says why not for each.
    """
    if not isinstance(source, Path | str):
        return family_named(source.family, source.path)
    reasons = []
    for load in FAMILIES.values():
        reason = load().refusal(Path(source))
        if not reason:
            return load()
        reasons.append(reason)
    raise ModelError(f"{source}: {'; or '.join(reasons)}")
