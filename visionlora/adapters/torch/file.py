"""The adapter file as torch tensors; what is in it, and the same as numpy arrays: visionlora.adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from visionlora.adapters import AdapterCard
from visionlora.adapters.file import open_adapter, pack_adapter
from visionlora.errors import AdapterError
from visionlora.files import atomic_output


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory: its card and its tensors (see `adapter_tensors` for names and shapes)."""

    card: AdapterCard
    tensors: Mapping[str, torch.Tensor]


def save_adapter(adapter: Adapter, path: Path | str, *, dtype: torch.dtype = torch.float16) -> None:
    """Write `adapter` to `path` atomically, its tensors rounded to `dtype`.

    Raises:
        AdapterError: a tensor is not finite, or does not fit the range of `dtype`.
        OutputError: the file cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in adapter.tensors.items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{path}: {len(broken)} tensors are not finite in {dtype}, the first is {broken[0]}")
    with atomic_output(path) as partial:
        partial.write_bytes(pack_adapter(save(tensors), adapter.card))


def load_adapter(path: Path | str) -> Adapter:
    """Read an adapter file; the tensors keep the file's dtype.

    Raises:
        AdapterError: the file is missing, damaged, or no adapter.
    """
    with open_adapter(path, "pt") as (card, file):
        return Adapter(card, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
