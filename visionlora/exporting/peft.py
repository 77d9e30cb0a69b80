"""Writing an adapter as PEFT's files: adapter.safetensors -> adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from visionlora.adapters.torch import load_adapter, peft_adapter
from visionlora.detectors import family_of
from visionlora.errors import OutputError, UsageError
from visionlora.files import atomic_output

FORMATS = ("peft",)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class ExportedAdapter:
    """An adapter in PEFT's files.

    Attributes:
        path: their folder.
        names: its classes, in the order of the class outputs.
        factors: layers that PEFT adapts by factors.
        whole: modules that are saved whole, because PEFT's LoRA has no form for them.
        bytes: size of both files.
    """

    path: Path
    names: tuple[str, ...]
    factors: tuple[str, ...]
    whole: tuple[str, ...]
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {len(self.factors)} layers by factors, {len(self.whole)} modules whole, "
            f"{self.bytes / 1e6:.2f} MB"
        )


def export_adapter(
    model: Path | str, adapter: Path | str, out: Path | str, *, format: str = FORMATS[0], overwrite: bool = False
) -> ExportedAdapter:
    """Write an adapter of LoRA or DoRA as PEFT reads it, for the same base with class outputs of the adapter's number.

    Args:
        model: the base (.pt) that the adapter was trained on.
        adapter: the adapter file.
        out: folder to write.
        format: `peft`.
        overwrite: replace files of an earlier export there.

    Raises:
        AdapterError: the adapter cannot be read, or belongs to another base.
        ModelError: the base cannot be used.
        OutputError: the files are there already, or cannot be written.
        UsageError: the adapter is of another method, or computes ReLU where the base has SiLU; the format is unknown.

    Example:
        >>> import visionlora as vl
        >>> vl.export_adapter("yolo11n.pt", "runs/steel/adapter.safetensors", "runs/steel/peft")  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise UsageError(f"--format: expected {' or '.join(FORMATS)}, got {format!r:.40}")
    folder = Path(out)
    files = [folder / WEIGHTS, folder / CONFIG]
    for path in files:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists; choose another --out, or pass --overwrite")
    family = family_of(model)
    base, loaded = family.load(model), load_adapter(adapter)
    loaded.card.check_base(base.fingerprint, str(base.path), family=family.name)
    if loaded.card.settings.relu_targets:
        raise UsageError(
            f"{adapter}: trained with --activation {loaded.card.settings.activation}, which no file of PEFT says; "
            "merge it"
        )
    detector = family.adapted(base, loaded.card.names, loaded.card.settings)
    made = peft_adapter(detector.model, detector.plan, loaded.tensors)
    content = (save(dict(made.tensors)), json.dumps(made.config, indent=2).encode())
    for path, data in zip(files, content, strict=True):
        with atomic_output(path) as partial:
            partial.write_bytes(data)
    return ExportedAdapter(folder, loaded.card.names, made.factors, made.whole, sum(map(len, content)))
