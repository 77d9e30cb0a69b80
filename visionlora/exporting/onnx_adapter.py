"""onnxruntime's files: adapter.safetensors -> NAME.onnx_adapter, its card, and the graph that takes adapters."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visionlora.adapters import ArrayAdapter, adapter_identity, load_arrays
from visionlora.cards import data_hashes, family_in, make_card
from visionlora.errors import AdapterError, ExportError, ModelError, OutputError, UsageError
from visionlora.exporting.adapter_results import ExportedAdapter
from visionlora.exporting.exporting import BOX_TOLERANCE, SCORE_TOLERANCE, export
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.kinds import CHECKPOINT, ONNX, ONNX_ADAPTER
from visionlora.formats.seal import seal
from visionlora.patching import (
    INPUTS_SETTING,
    INPUTS_VERSION,
    PatchableBase,
    graph_with_inputs,
    input_values,
    load_patchable,
    patched_content,
)
from visionlora.runtime import OnnxNetwork, read_card
from visionlora.runtime.network import ORT_ERRORS
from visionlora.tasks import difference

GRAPH = "base"
"""Stem of the graph's name, beside the adapters."""


def write_onnx_adapter(model: Path | str, adapter: Path | str, out: Path | str, *, overwrite: bool) -> ExportedAdapter:
    """Write an adapter as onnxruntime reads it, its card, and beside it the graph that takes it if it is not there.

    Args:
        model: the base (.pt) that the adapter was trained on, or its export (.onnx).
        adapter: the adapter file.
        out: file to write (.onnx_adapter).
        overwrite: replace these files; a graph of the same base stays as it is.

    Raises:
        AdapterError, ExportError, ModelError, OutputError, UsageError: as `export_adapter`.
    """
    out = Path(out)
    ONNX_ADAPTER.check_out(out)
    card_file, graph_file = out.with_suffix(".json"), out.with_name(f"{GRAPH}{ONNX.suffix}")
    for path in (out, card_file):
        refuse_existing(path, overwrite=overwrite)
    if graph_file.resolve() == Path(model).resolve():
        raise UsageError(f"--out {out}: expected another folder than the base's; {graph_file.name} would be replaced")
    loaded, identity = load_arrays(adapter), adapter_identity(adapter)
    base = _patchable(Path(model), loaded)
    patched = patched_content(base, loaded, path=adapter, adapter_sha256=identity, int8=False)
    try:
        values = input_values(base, loaded)
    except AdapterError as error:
        raise AdapterError(f"{adapter}: {error}") from error
    content = _adapter_content(values)
    graph, is_new = _graph(graph_file, base, overwrite=overwrite)
    _compare(out, graph_file, graph, content, patched)
    files = {card_file: _card(base, loaded, identity), out: content}
    for path, data in {**({graph_file: graph} if is_new else {}), **files}.items():
        with atomic_output(path) as partial:
            partial.write_bytes(data)
    factors, whole = (tuple(name for name in values if name.endswith(ending)) for ending in (".lora_B", ".weight"))
    return ExportedAdapter(out, loaded.card.names, factors, whole, sum(map(len, files.values())), graph_file)


def _card(base: PatchableBase, adapter: ArrayAdapter, identity: str) -> bytes:
    """Return the adapter's card: what an ONNX file has as its metadata."""
    settings = {
        "adapter": adapter.card.settings.to_fields(),
        INPUTS_SETTING: INPUTS_VERSION,
        **data_hashes(adapter.card.training),
    }
    card = make_card(
        ONNX_ADAPTER.name,
        names=adapter.card.names,
        image_size=base.image_size,
        parents={"base": base.folded.fingerprint, "adapter": identity},
        settings=settings,
        task=adapter.card.sized_task,
        family=family_in(base.card),
    )
    return f"{json.dumps(card, indent=1, sort_keys=True)}\n".encode()


def _patchable(model: Path, adapter: ArrayAdapter) -> PatchableBase:
    """Return the exported base; a checkpoint is exported for the adapter's image size."""
    if model.suffix != CHECKPOINT.suffix:
        return load_patchable(model)
    with tempfile.TemporaryDirectory() as folder:
        exported = export(model, Path(folder) / f"{model.stem}{ONNX.suffix}", imgsz=adapter.card.image_size)
        return dataclasses.replace(load_patchable(exported.path), path=model)  # what messages name


def _graph(file: Path, base: PatchableBase, *, overwrite: bool) -> tuple[bytes, bool]:
    """Return the graph that takes adapters of a base, and whether it has to be written.

    Raises:
        OutputError: another file has its name.
    """
    if _is_of(file, base):
        return file.read_bytes(), False
    if file.exists() and not overwrite:
        raise OutputError(
            f"{file}: exists, and is no graph for adapters of {base.folded.name} at {base.image_size} px; choose "
            "another folder for --out, or pass --overwrite"
        )
    return seal(graph_with_inputs(base).SerializeToString(deterministic=True)), True


def _is_of(graph: Path, base: PatchableBase) -> bool:
    """Whether a file is there that takes adapters of this base."""
    try:
        card = read_card(graph) or {}
        said = (card["settings"][INPUTS_SETTING], card["parents"]["base"], card["preprocessing"]["image_size"])
    except (ModelError, KeyError, TypeError):  # no file of ours, or damaged
        return False
    return said == (INPUTS_VERSION, base.folded.fingerprint, base.image_size)


def _adapter_content(values: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return the file of an adapter."""
    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters(
        {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in values.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"adapter{ONNX_ADAPTER.suffix}"
        made.export_adapter(str(path))
        return path.read_bytes()


def _compare(out: Path, graph_file: Path, graph: bytes, adapter: bytes, patched: bytes) -> None:
    """Run graph and adapter beside the patched detector, on noise.

    Raises:
        ExportError: they differ, or onnxruntime cannot run them.
    """
    network = OnnxNetwork(graph_file, content=graph)
    side = network.image_size
    picture = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    active, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"adapter{ONNX_ADAPTER.suffix}"
        path.write_bytes(adapter)
        active.Load(str(path))
        options.add_active_adapter(active)
        try:
            got = network.session.run(None, {network.session.get_inputs()[0].name: picture}, options)
        except ORT_ERRORS as error:
            raise ExportError(
                f"{out}: onnxruntime cannot run it with {graph_file}: {error}; no file is kept"
            ) from error
        finally:
            del options, active  # they hold the file
    expected = OnnxNetwork(out, content=patched)(picture)
    box_error, score_error = difference(network.task, got, expected)
    if not (box_error <= BOX_TOLERANCE and score_error <= SCORE_TOLERANCE):  # NaN fails too
        raise ExportError(
            f"{out}: onnxruntime with this adapter does not give the patched detector's output: boxes differ by "
            f"{box_error:.3g} px (allowed {BOX_TOLERANCE}), scores by {score_error:.3g} (allowed {SCORE_TOLERANCE}); "
            "no file is kept"
        )
