"""PEFT's files: adapter.safetensors -> adapter_config.json and adapter_model.safetensors, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.torch import Adapter, from_peft, load_adapter, peft_adapter, save_adapter
from visionlora.cards import preprocessing_card
from visionlora.data import load_dataset
from visionlora.detectors import family_of
from visionlora.errors import AdapterError, OutputError, UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.kinds import ADAPTER, CHECKPOINT
from visionlora.formats.parsing import parse_json
from visionlora.hub import local_file

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
        UsageError: the adapter is of another method, belongs to a rounded base, or computes ReLU where the base
            has SiLU; the format is unknown.

    Example:
        >>> import visionlora as vl
        >>> vl.export_adapter("yolo11n.pt", "runs/steel/adapter.safetensors", "runs/steel/peft")  # doctest: +SKIP
    """
    _check_format(format)
    folder = Path(out)
    files = [folder / WEIGHTS, folder / CONFIG]
    for path in files:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists; choose another --out, or pass --overwrite")
    model, adapter = local_file(model, CHECKPOINT), local_file(adapter, ADAPTER)
    family = family_of(model)
    base, loaded = family.load(model), load_adapter(adapter)
    loaded.card.check_base(base.fingerprint, str(base.path), family=family.name)
    if loaded.card.settings.relu_targets:
        raise UsageError(
            f"{adapter}: trained with --activation {loaded.card.settings.activation}, which no file of PEFT says; "
            "merge it"
        )
    if loaded.card.settings.base_precision != FLOAT32:
        raise UsageError(
            f"{adapter}: trained with --base-precision {loaded.card.settings.base_precision}; PEFT would put it on the "
            "base as it is, which is another one; merge it"
        )
    detector = family.adapted(base, loaded.card.names, loaded.card.settings)
    made = peft_adapter(detector.model, detector.plan, loaded.tensors)
    content = (save(dict(made.tensors)), json.dumps(made.config, indent=2).encode())
    for path, data in zip(files, content, strict=True):
        with atomic_output(path) as partial:
            partial.write_bytes(data)
    return ExportedAdapter(folder, loaded.card.names, made.factors, made.whole, sum(map(len, content)))


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter that was read from PEFT's files.

    Attributes:
        path: the adapter file.
        names: its classes, in the order of the class outputs.
        settings: its shape.
        bytes: size of the file.
    """

    path: Path
    names: tuple[str, ...]
    settings: AdapterSettings
    bytes: int

    def __str__(self) -> str:
        return f"{self.path}: {self.settings.method.words}; {self.bytes / 1e6:.2f} MB, {len(self.names)} classes"


def import_adapter(
    folder: Path | str,
    out: Path | str,
    *,
    model: Path | str,
    data: Path | str,
    imgsz: int = 640,
    format: str = FORMATS[0],
    overwrite: bool = False,
) -> ImportedAdapter:
    """Write the adapter that PEFT's files of LoRA or DoRA hold as an adapter file, in float32.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        out: the adapter file to write (.safetensors).
        model: the base (.pt) that it was trained on; its class outputs may have been others.
        data: data.yaml, for the class names.
        imgsz: side of the square input that it was trained at, in pixels.
        format: `peft`.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the files cannot be read, or hold what an adapter here has no form for.
        DataError, ModelError: the data set or the base cannot be used.
        OutputError: `out` exists, or cannot be written.
        UsageError: the image size or the format is none; `out` does not end in .safetensors.

    Example:
        >>> import visionlora as vl
        >>> vl.import_adapter("peft", "a.safetensors", model="yolo11n.pt", data="data.yaml")  # doctest: +SKIP
    """
    _check_format(format)
    out = refuse_existing(out, overwrite=overwrite)
    ADAPTER.check_out(out)
    model = local_file(model, CHECKPOINT)
    config, tensors = _read(Path(folder))
    family = family_of(model)
    base = family.load(model)
    family.check_image_size(imgsz, base)
    names = load_dataset(data, splits=(), task=base.task).names
    detector = family.adapted(base, names, AdapterSettings())
    try:
        settings, held = from_peft(
            detector.model,
            detector.plan,
            config,
            tensors,
            lambda settings: family.adapted(base, names, settings).plan,
        )
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from error
    card = AdapterCard(
        settings=settings,
        names=names,
        base={"name": base.path.name, "fingerprint": base.fingerprint, "family": family.name},
        preprocessing=preprocessing_card(imgsz),
        task=base.task.name,
        version=version("visionlora"),
    )
    save_adapter(Adapter(card, held), out, dtype=torch.float32)
    return ImportedAdapter(out, names, settings, out.stat().st_size)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what the two files hold.

    Raises:
        AdapterError: one cannot be read.
    """
    try:
        config = parse_json((folder / CONFIG).read_bytes())
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder}: expected {CONFIG} and {WEIGHTS}, as PEFT saves them: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("lora_alpha", 0), int | float):
        raise AdapterError(f"{folder / CONFIG}: expected settings of PEFT, got {config!r:.80}")
    return config, tensors


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise UsageError(f"--format: expected {' or '.join(FORMATS)}, got {format!r:.40}")
