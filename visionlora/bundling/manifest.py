"""What a bundle says about itself: manifest.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visionlora.errors import ModelError

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SelfTest:
    """A picture and what must be found in it.

    Attributes:
        picture: file name.
        confidence: only scores greater than this count; far below what an application would use.
        detections: the best ones: `name`, `class_id`, `score`, `box_xyxy`.
        box_tolerance: how far a box may be off, in pixels of the picture.
        score_tolerance: how far a score may be off.
    """

    picture: str
    confidence: float
    detections: Sequence[Mapping[str, Any]]
    box_tolerance: float
    score_tolerance: float


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        model: file name of the ONNX file.
        kind: `onnx` (float32) or `int8`.
        names: class names in the order of the class ids.
        preprocessing: how a picture becomes the input.
        thresholds: the lowest score that counts, one number a class.
        files: name -> `sha256` and `bytes` of every other file of the bundle.
        selftest: a picture and what must be found in it.
        latency: `ms`, `cpu` and `threads` of a measured picture; None where nobody measured.
        licence: of the model.
        parents: SHA-256 by role of what the model was made from.
        version: of visionlora.
    """

    model: str
    kind: str
    names: Sequence[str]
    preprocessing: Mapping[str, Any]
    thresholds: Sequence[float]
    files: Mapping[str, Mapping[str, Any]]
    selftest: SelfTest
    latency: Mapping[str, Any] | None
    licence: str
    parents: Mapping[str, str]
    version: str

    def to_json(self) -> str:
        """Return the manifest as text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in a file's bytes.

    Raises:
        ModelError: it is broken, of another format, or names a file that is no plain name.
    """
    try:
        fields = json.loads(content)
        if fields.pop("format") != FORMAT:
            raise ModelError(f"{where}: expected a bundle of format {FORMAT}, got another; use a newer visionlora")
        manifest = Manifest(selftest=SelfTest(**fields.pop("selftest")), **fields)
        listed = {name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest.files.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{where}: {MANIFEST} is broken: {error!r:.200}") from error
    odd = [name for name in listed if not is_plain_name(name)]
    missing = [name for name in (manifest.model, manifest.selftest.picture) if name not in listed]
    if odd or missing:
        raise ModelError(f"{where}: {MANIFEST} is broken: {(odd + missing)[0]!r:.80} is no file of the bundle")
    return manifest


def is_plain_name(name: str) -> bool:
    """Whether a name is one file in the bundle's own folder on every system: no path, no device, nothing hidden."""
    return bool(_PLAIN.fullmatch(name)) and not name.endswith(".")
