"""What a file is: the card that visionlora wrote into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionlora.errors import ModelError
from visionlora.files import sha256_of
from visionlora.formats.kinds import ADAPTER, BUNDLE, CHECKPOINT, EXPORTED, KINDS, ONNX, ONNX_ADAPTER
from visionlora.formats.parsing import parse_json
from visionlora.formats.pickled import Opaque, read_plain
from visionlora.formats.text import class_names, printable, size_words
from visionlora.hub import local_file
from visionlora.runtime import read_card

_SHOWN = 12
"""How many entries of a list are printed."""
_AGAIN = {"adapter": "settings", "names": "names"}
"""What an adapter's `training` may say as the card itself does, and what that is called there: printed once."""


@dataclass(frozen=True, repr=False)
class FileCard:
    """A file, or a folder: what it is, what it was made from, and how.

    Attributes:
        path: the file or folder.
        kind: `adapter`, `onnx-adapter`, `merged`, `checkpoint`, `onnx`, `int8`, `openvino`, `ncnn`, `litert`, `report`,
            `quantization`, `bench`, `bundle` or `run`.
        bytes: its size, with the second file of a model of two; of a folder that of the files in it.
        sha256: of its bytes, of both files' bytes one after the other; of a bundle's folder that of its manifest; empty
            for a run.
        card: everything that it says about itself.
    """

    path: Path
    kind: str
    bytes: int
    sha256: str
    card: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"FileCard({str(self.path)!r}, {self.kind}, {size_words(self.bytes)})"

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kind}, {size_words(self.bytes)}"]
        lines += [f"sha256: {self.sha256}"] if self.sha256 else []
        for name, value in self.card.items():
            if name == "quantization" and value:  # hundreds of ranges
                value = f"a recipe with {len(value.get('recipe', {}).get('ranges', {}))} ranges"
            if name == "training" and isinstance(value, Mapping):
                value = {k: said for k, said in value.items() if k not in _AGAIN or said != self.card.get(_AGAIN[k])}
            if name not in ("format", "kind") and value not in ({}, [], None):
                lines += _lines(name, value)
        return "\n".join(map(printable, lines))

    def to_json(self) -> str:
        """Return all of it as one JSON object, for programs."""
        return json.dumps({**asdict(self), "path": str(self.path)}, indent=1)


def inspect(path: Path | str) -> FileCard:
    """Say what a file is that visionlora wrote, or a checkpoint of anybody: nothing in it is run.

    Args:
        path: an adapter (also one of onnxruntime), a checkpoint, an exported file, a report.json or bench.json, the
            report beside an int8 file, a bundle (folder or .zip), a run's folder or a report's.

    Raises:
        ModelError: the file is missing, broken, or neither a checkpoint nor written by visionlora.
        AdapterError: a .safetensors file is no adapter.
        DataError: a report is broken.

    Example:
        >>> import visionlora as vl
        >>> print(vl.inspect("runs/steel/adapter.safetensors"))  # doctest: +SKIP
    """
    path = Path(local_file(path, ADAPTER, *KINDS.values()))
    if path.is_dir():
        return _folder(path)
    readers: dict[str, Callable[[Path], Mapping[str, Any] | None]] = {
        ADAPTER.suffix: _adapter,
        **{suffix: _checkpoint for suffix, kind in KINDS.items() if kind is CHECKPOINT},
        ONNX.suffix: read_card,
        ONNX_ADAPTER.suffix: lambda adapter: _json(adapter.with_suffix(".json")),
        ".json": _json,
        BUNDLE.suffix: _bundle,
        **{kind.suffix: read_card for kind in EXPORTED.values()},
    }
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix not in readers:
        raise ModelError(f"{path}: expected a folder, or a file ending in {', '.join(readers)}")
    card = readers[path.suffix](path)
    if not isinstance(card, Mapping) or not isinstance(card.get("kind"), str):
        raise ModelError(f"{path}: visionlora did not write this file: it carries no card")
    files = KINDS[path.suffix].parts(path) if path.suffix in KINDS else (path,)
    return FileCard(path, card["kind"], sum(file.stat().st_size for file in files), sha256_of(*files), card)


def _folder(path: Path) -> FileCard:
    files = {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}
    total = sum(files.values())
    if "manifest.json" in files:
        return FileCard(path, "bundle", total, sha256_of(path / "manifest.json"), _bundle(path))
    if "adapter.safetensors" not in files and "report.json" in files:
        return FileCard(path, "report", total, sha256_of(path / "report.json"), _json(path / "report.json"))
    if "adapter.safetensors" not in files and "training.json" not in files:
        raise ModelError(f"{path}: expected the folder of a run, a bundle or a report, found none of their files")
    card: dict[str, Any] = {"kind": "run", "files": [f"{name} ({size_words(size)})" for name, size in files.items()]}
    if "adapter.safetensors" in files:
        card |= {name: value for name, value in _adapter(path / "adapter.safetensors").items() if name != "kind"}
    if "report.json" in files:
        card["report"] = {name: value for name, value in _json(path / "report.json").items() if name != "kind"}
    return FileCard(path, "run", total, "", card)


def _adapter(path: Path) -> dict[str, Any]:
    from visionlora.adapters import read_adapter_card

    return json.loads(read_adapter_card(path).to_json())


def _checkpoint(path: Path) -> dict[str, Any]:
    entries = read_plain(path)
    own = entries.get("visionlora")
    if isinstance(own, dict) and isinstance(own.get("kind"), str):
        return _plain(own)
    card: dict[str, Any] = {"kind": "checkpoint"}
    model = entries.get("ema") or entries.get("model")
    state = model.state if isinstance(model, Opaque) and isinstance(model.state, dict) else {}
    for name in ("names", "task"):
        if name in state:
            card[name] = _plain(state[name])
    card |= {name: _plain(entries[name]) for name in ("epoch", "date", "version", "license") if entries.get(name)}
    arguments = entries.get("train_args")
    if isinstance(arguments, dict):
        card["training"] = {name: _plain(arguments[name]) for name in ("data", "imgsz", "epochs") if name in arguments}
    described = ("architecture", "categories", "image_size")  # of torchvision's detectors
    card |= {name: _plain(entries[name]) for name in described if name in entries}
    try:
        card["names"] = list(class_names(card.get("names")))
    except ValueError:
        card.pop("names", None)
    return card


def _plain(value: Any) -> Any:
    """Return a value of a pickle as JSON has it; what that has not is named."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else f"({type(value).__name__})"


def _bundle(path: Path) -> dict[str, Any]:
    from visionlora.bundling import open_bundle

    manifest = json.loads(open_bundle(path).manifest.to_json())
    return {
        **manifest,
        "kind": "bundle",
        "model_kind": manifest["kind"],
        "files": [f"{name} ({size_words(entry['bytes'])})" for name, entry in manifest["files"].items()],
        "selftest": f"{len(manifest['selftest']['detections'])} detections in {manifest['selftest']['picture']}",
        "signature": "not checked (visionlora unbundle --key)",
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        fields = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: expected JSON that visionlora wrote, cannot read it: {error}") from error
    if not isinstance(fields, dict):
        raise ModelError(f"{path}: visionlora did not write this file: it carries no card")
    if fields.get("kind") == "quantization":  # beside an int8 file
        return {name: fields[name] for name in ("kind", "sentence", "warnings", "budget", "passed") if name in fields}
    if fields.get("kind") == ONNX_ADAPTER.name:  # beside an adapter of onnxruntime
        return fields
    if "noise" in fields and "rows" in fields:
        return _bench(fields)
    if "rows" not in fields:
        raise ModelError(f"{path}: expected a report, a benchmark or the report beside an int8 file, got other JSON")
    return _report(path)


def _bench(fields: Mapping[str, Any]) -> dict[str, Any]:
    rows = fields["rows"] if isinstance(fields["rows"], list) else []
    rows = [row for row in rows if isinstance(row, dict)]
    labels = [
        f"{row.get('label')} ({row.get('runtime')}, {row.get('threads')} thread{'s' * (row.get('threads') != 1)})"
        for row in rows
    ]
    kept = {name: fields[name] for name in ("machine", "versions", "command", "pictures", "noise") if name in fields}
    return {"kind": "bench", "models": labels, **kept}


def _report(path: Path) -> dict[str, Any]:
    from visionlora.reporting import read_report

    report = read_report(path)
    return {
        "kind": "report",
        "data": {"path": report.data.path, "split": report.data.split, "images": report.data.images},
        **({"verdict": report.verdict.sentence} if report.verdict else {}),
        **({"warnings": list(report.warnings)} if report.warnings else {}),
        "parents": {row.label: row.sha256 for row in report.rows},
        "versions": dict(report.versions),
    }


def _lines(name: str, value: Any, indent: str = "") -> Iterator[str]:
    """Yield what a person reads of a value: a line, or one for each of its entries."""
    if isinstance(value, dict) and value:
        yield f"{indent}{name}:"
        for key, inner in value.items():
            yield from _lines(key, inner, indent + "  ")
    elif isinstance(value, list) and value:
        whole = [_one(inner) for inner in value]
        more = f", ... ({len(whole)})" if len(whole) > _SHOWN else ""
        yield f"{indent}{name}: {', '.join(whole[:_SHOWN])}{more}"
    else:
        yield f"{indent}{name}: {_one(value)}"


def _one(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:297]}..."
