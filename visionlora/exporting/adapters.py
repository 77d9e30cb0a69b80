"""Adapter files for other libraries, and theirs as adapter files."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.torch import Adapter, save_adapter
from visionlora.cards import preprocessing_card
from visionlora.data import load_dataset
from visionlora.detectors import family_of
from visionlora.errors import AdapterError, UsageError
from visionlora.exporting.adapter_results import ExportedAdapter, ImportedAdapter
from visionlora.exporting.lycoris import lycoris_reader
from visionlora.exporting.onnx_adapter import write_onnx_adapter
from visionlora.exporting.peft import peft_reader, write_peft
from visionlora.files import refuse_existing
from visionlora.formats.kinds import ADAPTER, CHECKPOINT, ONNX_ADAPTER
from visionlora.hub import local_file
from visionlora.tasks import task_fields

PEFT, LYCORIS = "peft", "lycoris"
WRITERS = {PEFT: write_peft, ONNX_ADAPTER.name: write_onnx_adapter}
READERS = {PEFT: peft_reader, LYCORIS: lycoris_reader}


def export_adapter(
    model: Path | str, adapter: Path | str, out: Path | str, *, format: str = PEFT, overwrite: bool = False
) -> ExportedAdapter:
    """Write an adapter as PEFT reads it, or as onnxruntime does; docs/methods.md says what these then do with it.

    Args:
        model: the base (.pt) that the adapter was trained on; for `onnx-adapter` also its export (.onnx).
        adapter: the adapter file.
        out: `peft`: folder to write; `onnx-adapter`: file to write (.onnx_adapter), with its card (.json) and the
            graph that takes it, `base.onnx`, beside it. A graph of the same base that is there already stays.
        format: `peft` or `onnx-adapter`.
        overwrite: replace files of an earlier export there.

    Raises:
        AdapterError: the adapter cannot be read, or belongs to another base.
        ExportError: onnxruntime does not compute with the files what the patched detector does; none is kept.
        ModelError: the base cannot be used.
        OutputError: the files are there already, or cannot be written.
        UsageError: the adapter is of a method that the format cannot hold, or computes ReLU where the base has SiLU;
            the format is unknown; `out` does not end as it must.

    Example:
        >>> import visionlora as vl
        >>> vl.export_adapter("yolo11n.pt", "runs/steel/adapter.safetensors", "runs/steel/peft")  # doctest: +SKIP
    """
    _check_format(format, tuple(WRITERS))
    return WRITERS[format](local_file(model, CHECKPOINT), local_file(adapter, ADAPTER), out, overwrite=overwrite)


def import_adapter(
    source: Path | str,
    out: Path | str,
    *,
    model: Path | str,
    data: Path | str,
    imgsz: int | None = None,
    format: str = PEFT,
    overwrite: bool = False,
) -> ImportedAdapter:
    """Write the adapter that PEFT's files of LoRA or DoRA hold, or a file of LyCORIS, as an adapter file, in float32.

    Args:
        source: `peft`: folder with `adapter_config.json` and `adapter_model.safetensors`; `lycoris`: file
            (.safetensors).
        out: the adapter file to write (.safetensors).
        model: the base (.pt) that it was trained on; for `peft` its class outputs may have been others.
        data: data.yaml, for the class names.
        imgsz: side of the square input that it was trained at, in pixels; the model's if None.
        format: `peft` or `lycoris`.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the files cannot be read, or hold what an adapter here has no form for.
        DataError, ModelError: the data set or the base cannot be used.
        OutputError: `out` exists, or cannot be written.
        UsageError: the image size or the format is none; `out` does not end in .safetensors, or is the source.

    Example:
        >>> import visionlora as vl
        >>> vl.import_adapter("peft", "a.safetensors", model="yolo11n.pt", data="data.yaml")  # doctest: +SKIP
    """
    _check_format(format, tuple(READERS))
    out = refuse_existing(out, overwrite=overwrite)
    ADAPTER.check_out(out)
    if out.resolve() == Path(source).resolve():
        raise UsageError(f"--out {out}: expected another file than the one that is read; it would be replaced")
    model = local_file(model, CHECKPOINT)
    read = READERS[format](Path(source))
    family = family_of(model)
    base = family.load(model)
    imgsz = base.image_size if imgsz is None else imgsz
    family.check_image_size(imgsz, base)
    names = load_dataset(data, splits=(), task=base.task).names
    detector = family.adapted(base, names, AdapterSettings())
    try:
        settings, held = read(
            detector.model, detector.plan, lambda settings: family.adapted(base, names, settings).plan
        )
    except AdapterError as error:
        raise AdapterError(f"{source}: {error}") from error
    card = AdapterCard(
        settings=settings,
        names=names,
        base={"name": base.path.name, "fingerprint": base.fingerprint, "family": family.name},
        preprocessing=preprocessing_card(imgsz, base.task.preprocessing),
        **task_fields(base.task),
        version=version("visionlora"),
    )
    save_adapter(Adapter(card, held), out, dtype=torch.float32)
    return ImportedAdapter(out, names, settings, out.stat().st_size)


def _check_format(format: str, known: tuple[str, ...]) -> None:
    if format not in known:
        raise UsageError(f"--format: expected {' or '.join(known)}, got {format!r:.40}")
