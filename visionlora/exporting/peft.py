"""PEFT's files: adapter.safetensors -> adapter_config.json and adapter_model.safetensors, and what these hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.torch import from_peft, load_adapter, peft_adapter
from visionlora.detectors import family_of
from visionlora.errors import AdapterError, UsageError
from visionlora.exporting.adapter_results import ExportedAdapter, Reader
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.parsing import parse_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_peft(model: Path | str, adapter: Path | str, out: Path | str, *, overwrite: bool) -> ExportedAdapter:
    """Write an adapter of LoRA or DoRA as PEFT reads it, for the same base with class outputs of the adapter's number.

    Args:
        model: the base (.pt) that the adapter was trained on.
        adapter: the adapter file.
        out: folder to write.
        overwrite: replace files of an earlier export there.

    Raises:
        AdapterError, ModelError, OutputError, UsageError: as `export_adapter`.
    """
    folder = Path(out)
    files = [folder / WEIGHTS, folder / CONFIG]
    for path in files:
        refuse_existing(path, overwrite=overwrite)
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
    detector = family.adapted(replace(base, task=loaded.card.sized_task), loaded.card.names, loaded.card.settings)
    made = peft_adapter(detector.model, detector.plan, loaded.tensors)
    content = (save(dict(made.tensors)), json.dumps(made.config, indent=2).encode())
    for path, data in zip(files, content, strict=True):
        with atomic_output(path) as partial:
            partial.write_bytes(data)
    return ExportedAdapter(folder, loaded.card.names, made.factors, made.whole, sum(map(len, content)))


def peft_reader(folder: Path) -> Reader:
    """Read the two files; return what makes an adapter of them for a base.

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
    return lambda model, plan, plan_for: from_peft(model, plan, config, tensors, plan_for)
