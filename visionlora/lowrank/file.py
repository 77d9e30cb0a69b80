"""The adapter file as numpy arrays: one .safetensors that says what it is. Reading it runs no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from visionlora.errors import AdapterError
from visionlora.files import atomic_output, sha256_of
from visionlora.lowrank.card import AdapterCard

KEY = "visionlora"
"""The one metadata entry: the card as JSON."""


@dataclass(frozen=True)
class ArrayAdapter:
    """An adapter in memory: its card and its tensors under the names of docs/files.md, float16 or float32."""

    card: AdapterCard
    tensors: Mapping[str, NDArray[np.floating]]


def load_arrays(path: Path | str) -> ArrayAdapter:
    """Read an adapter file; the arrays keep the file's precision.

    Raises:
        AdapterError: the file is missing, broken, no adapter, or holds numbers that are not finite floats.
    """
    with open_adapter(path, "numpy") as file:
        card = parse_card(file.metadata(), path)
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
        partial.write_bytes(save(arrays, metadata={KEY: adapter.card.to_json()}))


def read_adapter_card(path: Path | str) -> AdapterCard:
    """Read only the card of an adapter file.

    Raises:
        AdapterError: the file is missing, broken, or no adapter.
    """
    with open_adapter(path, "numpy") as file:
        return parse_card(file.metadata(), path)


def adapter_identity(path: Path | str) -> str:
    """Return the SHA-256 of the adapter file as it was before a recipe was written into it.

    What was merged before and after then has one parent.

    Raises:
        AdapterError: the file is no adapter.
    """
    origin = read_adapter_card(path).quantization.get("adapter")
    return origin if isinstance(origin, str) and origin else sha256_of(path)


@contextmanager
def open_adapter(path: Path | str, framework: str) -> Iterator[Any]:
    """Open a .safetensors file for reading with `numpy` or `pt`; what goes wrong then is an AdapterError."""
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: expected an adapter (.safetensors), cannot read it: {error}") from error


def parse_card(metadata: dict[str, str] | None, path: Path | str) -> AdapterCard:
    """Return the card in the metadata of the file `path`.

    Raises:
        AdapterError: there is none, or it is broken.
    """
    if not metadata or KEY not in metadata:
        raise AdapterError(f"{path}: is a .safetensors file, but no adapter of visionlora: it has no {KEY!r} metadata")
    try:
        return AdapterCard.from_json(metadata[KEY])
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
