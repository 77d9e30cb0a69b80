"""What a bundle says about itself: manifest.json."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from visionlora.errors import ModelError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import class_names
from visionlora.tasks import DETECT

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class ListedFile:
    """A file of a bundle.

    Attributes:
        sha256: of its bytes.
        bytes: its size.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ExpectedMask:
    """A mask as COCO's compressed RLE.

    Attributes:
        size: height and width in pixels.
        counts: the runs.
    """

    size: Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    counts: str


@dataclass(frozen=True)
class ExpectedDetection:
    """What must be found in the picture of a self-test, in pixels of the picture, as `Detections.to_dict` has it.

    Attributes:
        name: of its class.
        class_id: index into the names.
        score: in [0, 1].
        box_xyxy: left, top, right, bottom; None where the task finds none, as of all below.
        segmentation: its mask.
        keypoints: of each x, y and how surely it is visible.
        obb: centre x, centre y, width, height, angle in radians.
    """

    name: str
    class_id: Annotated[int, Field(ge=0)]
    score: _Fraction
    box_xyxy: Annotated[Sequence[_Number], Field(min_length=4, max_length=4)] | None = None
    segmentation: ExpectedMask | None = None
    keypoints: Sequence[Annotated[Sequence[_Number], Field(min_length=3, max_length=3)]] | None = None
    obb: Annotated[Sequence[_Number], Field(min_length=5, max_length=5)] | None = None


@dataclass(frozen=True)
class SelfTest:
    """A picture and what must be found in it.

    Attributes:
        picture: file name.
        confidence: only scores greater than this count; far below what an application would use.
        detections: the best ones.
        box_tolerance: how far a box may be off, in pixels of the picture.
        score_tolerance: how far a score may be off.
        mask_tolerance: how far the IoU of a mask with the expected one may be below 1.
        keypoint_tolerance: how far the keypoints that are visible may be off on average, as a share of the longer side
            of the box.
        angle_tolerance: how far an oriented box may be turned, in radians, times 1 less the ratio of its sides: a
            square has no angle.
    """

    picture: str
    confidence: _Fraction
    detections: Sequence[ExpectedDetection]
    box_tolerance: Annotated[_Number, Field(ge=0)]
    score_tolerance: Annotated[_Number, Field(ge=0)]
    mask_tolerance: _Fraction = 0.0
    keypoint_tolerance: Annotated[_Number, Field(ge=0)] = 0.0
    angle_tolerance: Annotated[_Number, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        model: file name of the ONNX file.
        kind: `onnx` (float32) or `int8`.
        created: when the bundle was made, UTC, such as `2025-01-31T12:00:00Z`; `unbundle` puts no older one in place of
            a newer one.
        names: class names in the order of the class ids.
        preprocessing: how a picture becomes the input.
        thresholds: the lowest score that counts, one number a class.
        files: name -> every other file of the bundle.
        selftest: a picture and what must be found in it.
        latency: `ms`, `cpu` and `threads` of a measured picture; None where nobody measured.
        licence: of the model.
        parents: SHA-256 by role of what the model was made from.
        version: of visionlora.
        task: what the model finds; one that names none is of detection.
        task_settings: the sizes of the task.
    """

    model: str
    kind: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    names: Annotated[Sequence[str], Field(min_length=1)]
    preprocessing: Mapping[str, Any]
    thresholds: Sequence[_Fraction]
    files: Mapping[str, ListedFile]
    selftest: SelfTest
    latency: Mapping[str, Any] | None
    licence: str
    parents: Mapping[str, str]
    version: str
    task: str = DETECT.name
    task_settings: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the manifest as text; what a detection does not have is not named."""
        fields = {"format": FORMAT, **asdict(self)}
        fields["selftest"]["detections"] = [
            {name: value for name, value in found.items() if value is not None}
            for found in fields["selftest"]["detections"]
        ]
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


_ADAPTER: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in a file's bytes.

    Raises:
        ModelError: it is broken, of another format, or names a file that is no plain name.
    """
    try:
        fields = parse_json(content)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ModelError(f"{where}: expected a bundle of format {FORMAT}, got another; use a newer visionlora")
        manifest = _ADAPTER.validate_python(fields)
        class_names(list(manifest.names))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelError(f"{where}: {MANIFEST} is broken: {place:.80}: {first['msg']}") from error
    except ValueError as error:
        raise ModelError(f"{where}: {MANIFEST} is broken: {error!s:.200}") from error
    odd = [name for name in manifest.files if not is_plain_name(name) or name in (MANIFEST, SIGNATURE)]
    missing = [name for name in (manifest.model, manifest.selftest.picture) if name not in manifest.files]
    if odd or missing:
        raise ModelError(f"{where}: {MANIFEST} is broken: {(odd + missing)[0]!r:.80} is no file of the bundle")
    if len(manifest.thresholds) != len(manifest.names):
        raise ModelError(
            f"{where}: {MANIFEST} is broken: expected {len(manifest.names)} thresholds, got {len(manifest.thresholds)}"
        )
    return manifest


def is_plain_name(name: str) -> bool:
    """Whether a name is one file in the bundle's own folder on every system: no path, no device, nothing hidden."""
    return bool(_PLAIN.fullmatch(name)) and not name.endswith(".")


def time_now() -> str:
    """Return this moment as a manifest has it, or that of `SOURCE_DATE_EPOCH`, for bundles that can be reproduced.

    Raises:
        UsageError: `SOURCE_DATE_EPOCH` is no time in seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        return time.strftime(_TIME, time.gmtime(time.time() if given is None else int(given)))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {given!r}") from error
