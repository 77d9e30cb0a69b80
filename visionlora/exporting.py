"""Exporting a detector to ONNX: a fixed graph with folded batch normalization, checked against torch."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from visionlora.cards import RECIPE_KEY, make_card
from visionlora.errors import ExportError, OutputError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.preprocess import letterbox, read_image
from visionlora.quantization.decode import simplify_decode
from visionlora.quantization.float_model import lift_constants
from visionlora.runtime import OnnxNetwork
from visionlora.yolo import Base, RawDetector, check_image_size, load_base, sample_pictures

OPSET = 17
OPSETS = range(13, 21)  # 13: quantization per channel; above 20 the exporter in use stops
BOX_TOLERANCE, SCORE_TOLERANCE = 0.1, 1e-3  # pixels of the input, and scores in [0, 1]


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file: where it is, its classes and input, and how far its output is from torch's.

    Attributes:
        path: the file.
        names: its classes.
        image_size: side of the square input in pixels.
        box_error: largest difference of a box coordinate on real pictures, in pixels of the input.
        score_error: largest difference of a score.
        bytes: size of the file.
    """

    path: Path
    names: tuple[str, ...]
    image_size: int
    box_error: float
    score_error: float
    bytes: int


def export(
    model: Path | str, out: Path | str, *, imgsz: int | None = None, opset: int = OPSET, overwrite: bool = False
) -> ExportedModel:
    """Export a checkpoint to ONNX (contract: export/README.md) and check it against torch on real pictures.

    Args:
        model: a merged or any other Ultralytics detection checkpoint (.pt).
        out: the file to write (.onnx).
        imgsz: side of the square input in pixels; None takes what the checkpoint was trained at.
        opset: ONNX operator set.
        overwrite: replace an existing file.

    Raises:
        UsageError: `imgsz` or `opset` is out of range.
        ModelError: the checkpoint cannot be used.
        ExportError: the exported graph does not give torch's output; no file is left.
        OutputError: `out` exists, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.export("merged.pt", "model.onnx", imgsz=320)  # doctest: +SKIP
    """
    out = refuse_existing(out, overwrite=overwrite)
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a name that ends in .onnx")
    if opset not in OPSETS:
        raise UsageError(f"opset: expected {OPSETS.start} to {OPSETS.stop - 1}, got {opset}")
    base = load_base(model)
    image_size = base.image_size if imgsz is None else imgsz
    check_image_size(image_size, base.model)
    detector = RawDetector(base.model)
    try:
        graph = _trace(detector, image_size=image_size, opset=opset)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    _describe(graph, base, image_size=image_size, opset=opset)
    with atomic_output(out) as partial:
        partial.write_bytes(graph.SerializeToString(deterministic=True))
        box_error, score_error = _compare(detector, OnnxNetwork(partial), out)
    return ExportedModel(out, base.names, image_size, box_error, score_error, out.stat().st_size)


def write_graph(base: Base, out: Path, *, image_size: int, opset: int = OPSET) -> Path:
    """Write the graph of a detector in memory, unchecked: what training under fake quantization runs on."""
    graph = _trace(RawDetector(base.model), image_size=image_size, opset=opset)
    _describe(graph, base, image_size=image_size, opset=opset)
    with atomic_output(out) as partial:
        partial.write_bytes(graph.SerializeToString(deterministic=True))
    return out


def ultralytics_metadata(card: Mapping[str, Any], stride: int) -> dict[str, str]:
    """Return a file's metadata entries: the card, and what Ultralytics' own readers look for."""
    image_size = card["preprocessing"]["image_size"]
    return {
        "description": "object detector exported by visionlora",
        "task": "detect",
        "batch": "1",
        "stride": str(stride),
        "imgsz": str([image_size, image_size]),
        "names": str(dict(enumerate(card["names"]))),
        "end2end": "False",
        "license": "AGPL-3.0",
        "visionlora": json.dumps(card, sort_keys=True),
    }


def _trace(detector: RawDetector, *, image_size: int, opset: int) -> onnx.ModelProto:
    """Return the graph with one input `images` (1, 3, S, S) and one output `output0` (1, 4 + classes, anchors)."""
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
            output_names=["output0"],
            opset_version=opset,
            dynamo=False,  # the graph of the other exporter needs onnxscript and is no smaller
        )
        model = onnxslim.slim(onnx.load(traced))  # folds the shape arithmetic of the fixed input
        lift_constants(model.graph)
        simplify_decode(model.graph)
        return model


def _describe(graph: onnx.ModelProto, base: Base, *, image_size: int, opset: int) -> None:
    """Put the metadata into the graph."""
    card = make_card(
        "onnx",
        names=base.names,
        image_size=image_size,
        parents={"checkpoint": sha256_of(base.path), **(base.card or {}).get("parents", {})},
        settings={"opset": opset},
    )
    entries = ultralytics_metadata(card, int(base.model.stride.max()))
    trained = (base.card or {}).get("quantization")
    if trained:
        entries[RECIPE_KEY] = json.dumps(trained["recipe"], separators=(",", ":"))
    for key, value in entries.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(graph)


@torch.no_grad()
def _compare(detector: RawDetector, network: OnnxNetwork, out: Path) -> tuple[float, float]:
    """Run both on real pictures; return the largest difference of boxes and of scores."""
    pictures = [letterbox(read_image(path), network.image_size)[0] for path in sample_pictures()]
    batch = np.stack(pictures)
    expected = torch.cat([detector(torch.from_numpy(picture)[None]) for picture in pictures]).numpy()
    difference = np.abs(network(batch) - expected)
    box_error, score_error = float(difference[:, :4].max()), float(difference[:, 4:].max())
    if not (box_error <= BOX_TOLERANCE and score_error <= SCORE_TOLERANCE):  # NaN fails too
        raise ExportError(
            f"{out}: the exported graph does not give torch's output: boxes differ by {box_error:.3g} px "
            f"(allowed {BOX_TOLERANCE}), scores by {score_error:.3g} (allowed {SCORE_TOLERANCE}); no file is kept"
        )
    return box_error, score_error
