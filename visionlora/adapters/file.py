"""The adapter file as numpy arrays: one .safetensors that says what it is. Reading it runs no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from visionlora.adapters.card import AdapterCard
from visionlora.errors import AdapterError
from visionlora.files import atomic_output, sha256_of
from visionlora.formats.kinds import ADAPTER, FILES

KEY = "visionlora"
"""The metadata entry with the card as JSON."""
CHECKSUM = "visionlora_sha256"
"""The metadata entry with the SHA-256 of card and tensors; files of versions up to 0.2.0 have none."""


@dataclass(frozen=True)
class ArrayAdapter:
    """An adapter in memory: its card and its tensors under the names of docs/files.md, float16 or float32."""

    card: AdapterCard
    tensors: Mapping[str, NDArray[np.floating]]


def load_arrays(path: Path | str) -> ArrayAdapter:
    """Read an adapter file; the arrays keep the file's precision.

    Raises:
        AdapterError: the file is missing, damaged, no adapter, or holds numbers that are not finite floats.
    """
    with open_adapter(path, "numpy") as (card, file):
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (AttributeError, TypeError, KeyError) as error:  # a type that numpy has not, such as bfloat16
            raise AdapterError(f"{path}: expected tensors of float16 or float32: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32) or not np.isfinite(tensor).all():
            raise AdapterError(f"{path}: {name}: expected finite float16 or float32, got {tensor.dtype} or a NaN")
    return ArrayAdapter(card, tensors)


def save_arrays(adapter: ArrayAdapter, path: Path | str) -> None:
    """Write an adapter file atomically, its arrays as they are.

    Raises:
        AdapterError: a tensor is not finite.
        OutputError: the file cannot be written.
    """
    broken = [name for name, tensor in adapter.tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{path}: {len(broken)} tensors are not finite, the first is {broken[0]}")
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in adapter.tensors.items()}
    with atomic_output(path) as partial:
        partial.write_bytes(pack_adapter(save(arrays), adapter.card))


def read_adapter_card(path: Path | str) -> AdapterCard:
    """Read only the card of an adapter file.

    Raises:
        AdapterError: the file is missing, damaged, or no adapter.
    """
    with open_adapter(path, "numpy") as (card, _):
        return card


def adapter_identity(path: Path | str) -> str:
    """Return the SHA-256 of the adapter file as it was before a recipe was written into it.

    What was merged before and after then has one parent.

    Raises:
        AdapterError: the file is no adapter.
    """
    origin = read_adapter_card(path).quantization.get("adapter")
    return origin if isinstance(origin, str) and origin else sha256_of(path)


def pack_adapter(content: bytes, card: AdapterCard) -> bytes:
    """Return the adapter file of a card and the tensors in `content`, a .safetensors file without metadata.

    The metadata is written here because safetensors writes several entries in another order each time.
    """
    header, tensors = _split(content)
    described = card.to_json()
    metadata = {KEY: described, CHECKSUM: _sha256(described, header, tensors)}
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes, as safetensors writes them
    return len(text).to_bytes(8, "little") + text + tensors


@contextmanager
def open_adapter(path: Path | str, framework: str) -> Iterator[tuple[AdapterCard, Any]]:
    """Open an adapter file for reading with `numpy` or `pt`; yield its card and the file.

    Raises:
        AdapterError: the file is missing, a folder, damaged, or no adapter.
    """
    if Path(path).is_dir():
        inside = Path(path) / "adapter.safetensors"
        advice = f"pass {inside}" if inside.is_file() else "pass the file itself"
        raise AdapterError(f"{path}: expected an adapter (.safetensors), got a folder; {advice}")
    kind = FILES.get(Path(path).suffix, ADAPTER)
    if kind is not ADAPTER:
        raise AdapterError(f"{path}: expected an adapter (.safetensors, as train writes it), got {kind.words}")
    if Path(path).exists() and not Path(path).is_file():  # opening a pipe could wait for ever
        raise AdapterError(f"{path}: expected an adapter (.safetensors), got a pipe or a device; give a regular file")
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise AdapterError(
                    f"{path}: is a .safetensors file, but no adapter of visionlora: it has no {KEY!r} metadata"
                )
            _check(path, metadata[KEY], metadata.get(CHECKSUM))
            yield _parse_card(metadata[KEY], path), file
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: expected an adapter (.safetensors), cannot read it: {error}") from error


def _parse_card(text: str, path: Path | str) -> AdapterCard:
    try:
        return AdapterCard.from_json(text)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error


def _check(path: Path | str, card: str, expected: str | None) -> None:
    if expected is None:
        return
    try:
        got = _sha256(card, *_split(Path(path).read_bytes()))
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # safetensors takes more kinds of header
        raise AdapterError(f"{path}: damaged: its header cannot be read: {error}; fetch the file again") from error
    if got != expected:
        raise AdapterError(
            f"{path}: damaged: its card and tensors do not have the checksum that the file names "
            f"(expected {expected:.12}, got {got:.12}); fetch the file again"
        )


def _sha256(card: str, header: Mapping[str, Any], tensors: bytes) -> str:
    """Return the SHA-256 of a card's text, and of names, types, shapes and bytes of tensors in the order of names."""
    digest = hashlib.sha256(card.encode())
    for name, entry in sorted(header.items()):
        start, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(tensors[start:end])
    return digest.hexdigest()


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a .safetensors file, without the metadata, and the bytes of its tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return header, content[end:]
