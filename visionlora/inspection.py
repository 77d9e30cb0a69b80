"""What a file is: the card that visionlora wrote into it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError
from visionlora.files import sha256_of
from visionlora.parsing import parse_json


@dataclass(frozen=True)
class FileCard:
    """A file that visionlora wrote: what it is, what it was made from, and how.

    Attributes:
        path: the file.
        kind: `adapter`, `merged`, `onnx`, `int8`, `openvino`, `ncnn`, `litert`, `report` or `quantization`.
        bytes: its size.
        sha256: of its bytes.
        card: everything that the file says about itself.
    """

    path: Path
    kind: str
    bytes: int
    sha256: str
    card: Mapping[str, Any]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kind}, {self.bytes / 1e6:.2f} MB", f"sha256: {self.sha256}"]
        for name, value in self.card.items():
            if name == "quantization" and value:  # hundreds of ranges
                value = f"a recipe with {len(value['recipe']['ranges'])} ranges"
            if name not in ("format", "kind"):
                lines.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
        return "\n".join(lines)


def inspect(path: Path | str) -> FileCard:
    """Read what a file that visionlora wrote says about itself.

    Args:
        path: an adapter, a merged checkpoint, an exported file, a report.json or the report beside an int8 file.

    Raises:
        ModelError: the file is missing, broken, or visionlora did not write it.
        AdapterError: a .safetensors file is no adapter.

    Example:
        >>> import visionlora as vl
        >>> print(vl.inspect("runs/steel/adapter.safetensors"))  # doctest: +SKIP
    """
    path = Path(path)
    readers = {".safetensors": _adapter, ".pt": _checkpoint, ".onnx": _onnx, ".json": _report}
    readers |= {".xml": _of_two_files, ".param": _of_two_files, ".tflite": _litert}
    if path.suffix not in readers:
        raise ModelError(f"{path}: expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    card = readers[path.suffix](path)
    if card is None or "kind" not in card:
        raise ModelError(f"{path}: visionlora did not write this file: it carries no card")
    return FileCard(path, str(card["kind"]), path.stat().st_size, sha256_of(path), card)


def _adapter(path: Path) -> Mapping[str, Any] | None:
    from visionlora.lowrank import read_adapter_card

    return json.loads(read_adapter_card(path).to_json())


def _checkpoint(path: Path) -> Mapping[str, Any] | None:
    from visionlora.yolo import load_base

    return load_base(path).card


def _onnx(path: Path) -> Mapping[str, Any] | None:
    from visionlora.runtime import OnnxNetwork

    return OnnxNetwork(path).metadata


def _of_two_files(path: Path) -> Mapping[str, Any] | None:
    from visionlora.runtime.description import described_beside

    return described_beside(path).card


def _litert(path: Path) -> Mapping[str, Any] | None:
    from visionlora.runtime.litert import read_card

    return read_card(path)


def _report(path: Path) -> Mapping[str, Any] | None:
    from visionlora.evaluation.report import read_report

    with contextlib.suppress(ValueError):  # read_report says what is wrong
        fields = parse_json(path.read_bytes())
        if isinstance(fields, dict) and fields.get("kind") == "quantization":  # beside an int8 file
            return {
                name: fields[name] for name in ("kind", "sentence", "warnings", "budget", "passed") if name in fields
            }
    report = read_report(path)
    return {
        "kind": "report",
        "data": {"path": report.data.path, "split": report.data.split, "images": report.data.images},
        **({"verdict": report.verdict.sentence} if report.verdict else {}),
        **({"warnings": list(report.warnings)} if report.warnings else {}),
        "parents": {row.label: row.sha256 for row in report.rows},
        "versions": dict(report.versions),
    }
