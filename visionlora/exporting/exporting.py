"""Exporting a detector: a fixed graph with folded batch normalization, checked against torch."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from visionlora.adapters import read_adapter_card
from visionlora.adapters.folded_base import ENTRY as BASE_ENTRY
from visionlora.adapters.torch import load_adapter
from visionlora.cards import RECIPE_KEY, data_hashes, licence_of, make_card
from visionlora.detectors import family_of
from visionlora.detectors.family import Base
from visionlora.errors import ExportError, ModelError, OutputError, UsageError
from visionlora.exporting.converters import require_converter, write_litert, write_ncnn, write_openvino
from visionlora.exporting.merging import with_adapter
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.formats.kinds import ADAPTER, CHECKPOINT, EXPORTED, KINDS, ONNX
from visionlora.formats.seal import seal
from visionlora.hub import local_file
from visionlora.int8.decode import simplify_decode
from visionlora.int8.float_model import lift_constants
from visionlora.patching import check_keep, keep_adapters_in
from visionlora.runtime import OpenVinoNetwork, open_exported
from visionlora.tasks import Pose, Task, difference
from visionlora.vision.inference import Network, placed
from visionlora.vision.preprocess import read_image

OPSET = 17
OPSETS = range(13, 21)  # 13: quantization per channel; above 20 the exporter in use stops
BOX_TOLERANCE, SCORE_TOLERANCE = 0.1, 1e-3  # pixels of the input, and scores in [0, 1]


@dataclass(frozen=True)
class ExportedModel:
    """An exported file: where it is, its classes and input, and how far its output is from torch's.

    Attributes:
        path: the file.
        names: its classes.
        image_size: side of the square input in pixels.
        box_error: largest difference of a box coordinate on real pictures, in pixels of the input; 0 without boxes.
        score_error: largest difference of a score.
        bytes: size of the file, with that of its weights where they are beside it.
        task: what it finds, as Ultralytics names it.
    """

    path: Path
    names: tuple[str, ...]
    image_size: int
    box_error: float
    score_error: float
    bytes: int
    task: str


def export(
    model: Path | str,
    out: Path | str,
    *,
    adapter: Path | str | Sequence[Path | str] | None = None,
    keep: str | None = None,
    joined: str | None = None,
    format: str = "onnx",
    imgsz: int | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
) -> ExportedModel:
    """Export a checkpoint to ONNX (contract: export/README.md) or another format; check it against torch on pictures.

    Args:
        model: a merged or any other checkpoint of a detector (.pt, .pth).
        adapter: an adapter (.safetensors) of `model`, which is exported with it in one graph: merged, or with the
            modules that it adds. No adapter can be patched into that graph any more. With `keep` also several.
        keep: `exact` keeps the base's classes: the adapters stand beside the base in the file, as `patch` puts them.
        joined: with `keep`, who finds a class that several parts know by name, as for `patch`.
        out: the file to write: .onnx; .xml for OpenVINO and .param for ncnn, with a .bin and a .metadata.yaml
            beside it; .tflite for LiteRT.
        format: `onnx`, `openvino`, `ncnn` or `litert`; the libraries of the others are optional.
        imgsz: side of the square input in pixels; None takes what the checkpoint, or the adapter, was trained at.
        opset: ONNX operator set, also of the graph that OpenVINO's file is made from.
        overwrite: replace an existing file.

    Raises:
        UsageError: an option is out of range, the format's library is not installed, or options do not go together.
        ModelError: the checkpoint cannot be used.
        AdapterError: the adapter cannot be read, or belongs to another base.
        ExportError: the exported graph does not give torch's output; no file is left.
        OutputError: `out` or a file beside it exists, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.export("merged.pt", "model.onnx", imgsz=320)  # doctest: +SKIP
    """
    out, model = _check(Path(out), format, opset, overwrite=overwrite), local_file(model, CHECKPOINT)
    given = [adapter] if isinstance(adapter, Path | str) else list(adapter or ())
    adapters = [local_file(each, ADAPTER) for each in given]
    _check_kept(keep, joined, len(adapters), format)
    family, kind = family_of(model), EXPORTED[format]
    base = family.load(model)
    if adapters and keep is None:
        base = with_adapter(family, base, load_adapter(adapters[0]), adapters[0])
    if keep is not None and imgsz is None:
        imgsz = read_adapter_card(adapters[0]).image_size
    image_size = base.image_size if imgsz is None else imgsz
    family.check_image_size(image_size, base)
    detector = family.raw_detector(base.model)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / out.name
        try:
            patchable = not adapters or keep is not None
            _write(made, detector, base, format=format, image_size=image_size, opset=opset, patchable=patchable)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
        try:
            box_error, score_error = _compare(detector, _open(made, format), family.sample_pictures(), out)
        except ModelError as error:  # it names the temporary file
            raise ExportError(str(error).replace(str(made), str(out))) from error
        names = base.names
        if keep is not None:
            names = keep_adapters_in(made, adapters, joined).names
        for file in kind.files(out):
            with atomic_output(file) as partial:
                partial.write_bytes(made.with_name(file.name).read_bytes())
    size = sum(file.stat().st_size for file in kind.parts(out))
    return ExportedModel(out, names, image_size, box_error, score_error, size, base.task.name)


def _check(out: Path, format: str, opset: int, *, overwrite: bool) -> Path:
    """Refuse what cannot be exported, before any work; return `out`."""
    if format not in EXPORTED:
        raise UsageError(f"--format: expected {', '.join(EXPORTED)}, got {format!r}")
    kind = EXPORTED[format]
    if out.suffix != kind.suffix:
        meant = KINDS.get(out.suffix, CHECKPOINT)
        advice = "" if meant is CHECKPOINT else f", or --format {meant.name} for this one"
        raise UsageError(f"--out {out}: expected a name that ends in {kind.suffix}{advice}")
    if opset not in OPSETS:
        raise UsageError(f"--opset: expected {OPSETS.start} to {OPSETS.stop - 1}, got {opset}")
    for another in EXPORTED.values():
        other = out.with_suffix(another.suffix)
        if other != out and other.exists() and {*another.files(other)} & {*kind.files(out)}:
            raise OutputError(f"{out}: its weights would lie in the same file as those of {other}; choose another name")
    for file in kind.files(out):
        refuse_existing(file, overwrite=overwrite)
    if format != "onnx":
        require_converter(format)
    return out


def _check_kept(keep: str | None, joined: str | None, adapters: int, format: str) -> None:
    """Refuse options that do not go together."""
    check_keep(keep, joined)
    if keep is None and adapters > 1:
        raise UsageError(f"--adapter: expected one file, got {adapters}; several stand beside the base with --keep")
    if keep is not None and not adapters:
        raise UsageError(f"--keep {keep}: expected the adapters that stand beside the base, as --adapter")
    if keep is not None and format != "onnx":
        raise UsageError(f"--keep {keep}: expected --format onnx, got {format}; other formats hold one path alone")


def _write(
    out: Path, detector: nn.Module, base: Base, *, format: str, image_size: int, opset: int, patchable: bool = True
) -> None:
    """Write the files of a format; one of a `patchable` base remembers how it was folded."""
    card = make_card(
        format,
        names=base.names,
        image_size=image_size,
        parents={"checkpoint": sha256_of(base.path), **(base.card or {}).get("parents", {})},
        settings={
            **({"opset": opset} if format in ("onnx", "openvino") else {}),
            **data_hashes((base.card or {}).get("settings")),
        },
        task=base.task,
        family=base.family,
    )
    stride = base.stride
    if format in ("onnx", "openvino"):
        graph = _trace(detector, base.task, image_size=image_size, opset=opset)
        graph = _described(graph, base, card, stride, patchable=patchable)
        path = out.with_suffix(ONNX.suffix)
        path.write_bytes(seal(graph.SerializeToString(deterministic=True)))
        if format == "openvino":
            write_openvino(path, out, _metadata_beside(card, stride, base.task))
        return
    images = torch.zeros(1, 3, image_size, image_size)
    write = write_ncnn if format == "ncnn" else write_litert
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constants that depend on the fixed input, as intended
        detector(images)  # the head makes its anchors on the first call: not in the graph, then
        write(detector, images, out, _metadata_beside(card, stride, base.task))


def _open(path: Path, format: str) -> Network:
    """Open an exported file, in float32 where its runtime would choose less."""
    if format == "openvino":
        return OpenVinoNetwork(path, float32=True)
    network: Network = open_exported(path, EXPORTED[format].runtime)
    return network


def _metadata_beside(card: Mapping[str, Any], stride: int, task: Task) -> dict[str, Any]:
    """Return what stands beside a file that cannot hold it, with the types that Ultralytics writes."""
    image_size = card["preprocessing"]["image_size"]
    typed = {"batch": 1, "stride": stride, "imgsz": [image_size] * 2, "names": dict(enumerate(card["names"]))}
    if isinstance(task, Pose):
        typed["kpt_shape"] = [task.keypoints, task.dims]
    return {**ultralytics_metadata(card, stride, task), **typed, "end2end": False}


def write_graph(base: Base, out: Path, *, image_size: int, opset: int = OPSET) -> Path:
    """Write the ONNX graph of a detector in memory, unchecked: what training under fake quantization runs on."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "graph.onnx"
        detector = family_of(base).raw_detector(base.model)
        _write(made, detector, base, format="onnx", image_size=image_size, opset=opset, patchable=False)
        with atomic_output(out) as partial:
            partial.write_bytes(made.read_bytes())
    return out


def _described(
    graph: onnx.ModelProto, base: Base, card: Mapping[str, Any], stride: int, *, patchable: bool
) -> onnx.ModelProto:
    """Put the metadata into the graph: the card, how the base was folded, and ranges that its adapter brought."""
    entries = ultralytics_metadata(card, stride, base.task)
    if patchable:
        constants = {
            tensor.name.removeprefix("model."): numpy_helper.to_array(tensor) for tensor in graph.graph.initializer
        }
        entries[BASE_ENTRY] = family_of(base).folded_base(base, constants).to_entry()
    carried = (base.card or {}).get("quantization")
    if carried:
        entries[RECIPE_KEY] = json.dumps(carried["recipe"], separators=(",", ":"))
    helper.set_model_props(graph, entries)
    onnx.checker.check_model(graph)
    return graph


def ultralytics_metadata(card: Mapping[str, Any], stride: int, task: Task) -> dict[str, str]:
    """Return a file's metadata entries: the card, and what Ultralytics' own readers look for."""
    image_size = card["preprocessing"]["image_size"]
    return {
        "description": f"{'object detector' if task.boxes else 'classifier'} exported by visionlora",
        "task": task.name,
        "batch": "1",
        "stride": str(stride),
        "imgsz": str([image_size, image_size]),
        "names": str(dict(enumerate(card["names"]))),
        "end2end": "False",
        **({"kpt_shape": str([task.keypoints, task.dims])} if isinstance(task, Pose) else {}),
        "license": licence_of(card["family"]).removesuffix("-only"),
        "visionlora": json.dumps(card, sort_keys=True),
    }


def _trace(detector: nn.Module, task: Task, *, image_size: int, opset: int) -> onnx.ModelProto:
    """Return the graph with one input `images` (1, 3, S, S) and the outputs `output0` (1, rows, anchors), `output1`."""
    import onnxslim  # here, so that training in float does not need it

    images = torch.zeros(1, 3, image_size, image_size)
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # constants that depend on the fixed input, as intended
        detector(images)  # the head makes its anchors on the first call: not in the graph, then
        traced = Path(folder) / "traced.onnx"
        torch.onnx.export(
            detector,
            (images,),
            traced,
            input_names=["images"],
            output_names=[f"output{number}" for number in range(task.outputs)],
            opset_version=opset,
            dynamo=False,  # the graph of the other exporter needs onnxscript and is no smaller
        )
        model = onnxslim.slim(onnx.load(traced))  # folds the shape arithmetic of the fixed input
        lift_constants(model.graph)
        simplify_decode(model.graph, task)
        return model


@torch.no_grad()
def _compare(detector: nn.Module, network: Network, pictures: Sequence[Path], out: Path) -> tuple[float, float]:
    """Run both on real pictures; return the largest difference of boxes and of scores."""
    batch = np.stack([placed(network.task, read_image(path), network.image_size)[0] for path in pictures])
    outputs = zip(*(detector(torch.from_numpy(picture)[None]) for picture in batch), strict=True)
    expected = [torch.cat(output).numpy() for output in outputs]
    box_error, score_error = difference(network.task, network(batch), expected)
    if not (box_error <= BOX_TOLERANCE and score_error <= SCORE_TOLERANCE):  # NaN fails too
        raise ExportError(
            f"{out}: the exported graph does not give torch's output: boxes differ by {box_error:.3g} px "
            f"(allowed {BOX_TOLERANCE}), scores by {score_error:.3g} (allowed {SCORE_TOLERANCE}); no file is kept"
        )
    return box_error, score_error
