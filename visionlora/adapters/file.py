"""The adapter file: one .safetensors that says what it is, what it belongs to, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from visionlora.adapters.plan import AdapterSettings
from visionlora.errors import AdapterError, UsageError
from visionlora.files import atomic_output

FORMAT = 1
_KEY = "visionlora"  # the one metadata entry: JSON


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter file says about itself.

    Attributes:
        settings: rank, alpha, targets, bias.
        names: class names in the order of the class outputs.
        base: `name` (file name) and `fingerprint` (SHA-256 of the weights) of the base it belongs to.
        preprocessing: as in an exported model's metadata; `image_size` in pixels.
        training: the settings of the run that made it.
        scores: what the run measured on its validation images.
        task: always `detect`.
        version: visionlora's version.
        quantization: how its merged model becomes int8 (docs/files.md); empty where nobody has calibrated it.
    """

    settings: AdapterSettings
    names: tuple[str, ...]
    base: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    task: str = "detect"
    version: str = ""
    quantization: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the card as one JSON object, with `format` and `kind`."""
        fields = asdict(self)
        if not self.quantization:  # versions that do not know the entry can read the file, then
            del fields["quantization"]
        return json.dumps({"format": FORMAT, "kind": "adapter", **fields}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AdapterCard:
        """Return the card that `to_json` wrote.

        Raises:
            AdapterError: the text is no adapter card, or of a later format.
        """
        try:
            fields = json.loads(text)
            version, kind = fields.pop("format"), fields.pop("kind")
            if kind != "adapter" or version > FORMAT:
                raise AdapterError(f"expected an adapter of format {FORMAT} or older, got {kind} of format {version}")
            settings = AdapterSettings(**fields.pop("settings"))
            return cls(settings=settings, names=tuple(fields.pop("names")), **fields)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise AdapterError(f"the adapter's metadata cannot be read: {error}") from error


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory: its card and its tensors (see `adapter_tensors` for names and shapes)."""

    card: AdapterCard
    tensors: Mapping[str, torch.Tensor]

    def check_base(self, fingerprint: str, where: str) -> None:
        """Refuse a base other than the one that the adapter was trained on.

        Raises:
            AdapterError: `fingerprint`, of the base loaded from `where`, is another; both are named.
        """
        expected = self.card.base["fingerprint"]
        if fingerprint != expected:
            raise AdapterError(
                f"the adapter belongs to {self.card.base.get('name', 'another base')} with weights {expected}, "
                f"but {where} has weights {fingerprint}; pass the base that the adapter was trained on as --model"
            )


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
        partial.write_bytes(save(tensors, metadata={_KEY: adapter.card.to_json()}))


def load_adapter(path: Path | str) -> Adapter:
    """Read an adapter file; the tensors keep the file's dtype.

    Raises:
        AdapterError: the file is missing, broken, or no adapter.
    """
    with _open(path) as file:
        card = _card(file.metadata(), path)
        return Adapter(card, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)


def read_adapter_card(path: Path | str) -> AdapterCard:
    """Read only the card of an adapter file.

    Raises:
        AdapterError: the file is missing, broken, or no adapter.
    """
    with _open(path) as file:
        return _card(file.metadata(), path)


@contextmanager
def _open(path: Path | str) -> Iterator[Any]:
    """Open a .safetensors file for reading; what goes wrong then is an AdapterError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: expected an adapter (.safetensors), cannot read it: {error}") from error


def _card(metadata: dict[str, str] | None, path: Path | str) -> AdapterCard:
    if not metadata or _KEY not in metadata:
        raise AdapterError(f"{path}: is a .safetensors file, but no adapter of visionlora: it has no {_KEY!r} metadata")
    try:
        return AdapterCard.from_json(metadata[_KEY])
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
