"""From a float detector to an int8 one that is as accurate, smaller and faster on a CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visionlora.cards import make_card
from visionlora.data import LabelledImage, load_dataset
from visionlora.errors import ModelError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.preprocess import letterbox, read_image
from visionlora.quantization.calibration import choose_images, measure
from visionlora.quantization.checks import check_int8_convs, check_scores, check_size
from visionlora.quantization.float_model import load_float_model
from visionlora.quantization.histogram import Histogram
from visionlora.quantization.plan import QuantizationPlan, RangeGroup, Use, plan_quantization
from visionlora.quantization.qdq import write_qdq
from visionlora.quantization.ranges import (
    SCORE_LOGIT_RANGE,
    UNIT_RANGE,
    ActivationRange,
    choose_range,
    observed_range,
    silu,
)
from visionlora.runtime import OnnxNetwork


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a file are quantized, for whoever reads the file.

    Attributes:
        name: one word for the whole.
        activations, weights, biases: integer type and where its scales come from.
    """

    name: str
    activations: str
    weights: str
    biases: str


U8S8 = Scheme(
    "u8s8",
    activations="uint8, asymmetric, per tensor",
    weights="int8, symmetric, per output channel",
    biases="int32, scale of the input times scale of the weight",
)
"""What onnxruntime computes in integers on x86. With int8 activations it would compute most of it in float there."""


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized detector.

    Attributes:
        path: the file.
        bytes: its size.
        float_bytes: the size of the file it was made from.
        int8_convs: how many convolutions onnxruntime runs in int8.
        convs: how many are meant to.
        float_layers: names of the layers that were left float on purpose.
        images: how many images it was calibrated on.
    """

    path: Path
    bytes: int
    float_bytes: int
    int8_convs: int
    convs: int
    float_layers: tuple[str, ...]
    images: int


def quantize(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    images: int = 32,
    seed: int = 0,
    overwrite: bool = False,
) -> QuantizedModel:
    """Quantize a detector to int8, calibrated on images of the training split.

    The file is kept only if it is much smaller, runs in int8 in onnxruntime, and still gives scores. onnxruntime's
    integer kernels are exact on x86 CPUs with VNNI; on older ones sums of large products may saturate.

    Args:
        model: an ONNX file that visionlora exported, or a stock Ultralytics export of a detector.
        data: the data.yaml whose training images are shown to the network.
        out: where to write the quantized file.
        images: how many images to calibrate on; all where there are fewer.
        seed: which images are chosen; every class is among them where possible.
        overwrite: replace `out` if it exists.

    Raises:
        DataError: the data set or one of its images cannot be used.
        ModelError: `model` is not a float detector that gives raw predictions.
        OutputError: `out` exists or cannot be written.
        QuantizationError: the quantized file fails a check; nothing is written.
        UsageError: `images` is below 1, or `out` is `model`.

    Example:
        >>> quantize("model.onnx", "data.yaml", "model.int8.onnx").int8_convs  # doctest: +SKIP
        87
    """
    if images < 1:
        raise UsageError(f"images: expected at least 1 calibration image, got {images}")
    model, out = Path(model), refuse_existing(out, overwrite=overwrite)
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a name that ends in .onnx")
    if out.resolve() == model.resolve():
        raise UsageError(f"{out}: expected another file than the float model; it would be overwritten")
    network = OnnxNetwork(model)
    float_model = load_float_model(model)
    _refuse_end_to_end(model, network)
    dataset = load_dataset(data, splits=("train",))
    chosen = choose_images(dataset.split("train"), images, seed=seed)

    plan = plan_quantization(float_model.graph)
    quantized = _calibrate(float_model, plan, chosen, network.image_size)
    settings = {
        "scheme": asdict(U8S8),
        "seed": seed,
        "images": len(chosen),
        "calibration": [_relative(image.path, dataset.yaml_path.parent) for image in chosen],
    }
    _describe(quantized, float_model, network, parent=sha256_of(model), settings=settings)
    float_bytes = model.stat().st_size
    with atomic_output(out) as partial:
        partial.write_bytes(quantized.SerializeToString(deterministic=True))
        size = check_size(partial, float_bytes)
        int8_convs = check_int8_convs(partial, plan.convs)
        check_scores(network, OnnxNetwork(partial), _inputs(chosen, network.image_size))
    return QuantizedModel(out, size, float_bytes, int8_convs, len(plan.convs), plan.float_layers, len(chosen))


def _calibrate(
    float_model: onnx.ModelProto, plan: QuantizationPlan, images: Sequence[LabelledImage], image_size: int
) -> onnx.ModelProto:
    """Return the int8 graph with the ranges that the images ask for."""
    measured = [name for group in plan.groups if _is_measured(group) for name in group.sources]
    histograms = measure(float_model, measured, _inputs(images, image_size))
    return write_qdq(float_model, plan, _ranges(plan, histograms))


def _refuse_end_to_end(path: Path, network: OnnxNetwork) -> None:
    """Finished detections would need another contract with whoever runs the quantized file."""
    blank = np.zeros((1, 3, network.image_size, network.image_size), dtype=np.float32)
    shape = network.session.run(None, {network.session.get_inputs()[0].name: blank})[0].shape
    rows = 4 + len(network.names)
    if len(shape) != 3 or shape[1] != rows:
        raise ModelError(
            f"{path}: expected raw predictions (1, {rows}, anchors), got {shape}; "
            "export it with visionlora, or with nms=None"
        )


def _inputs(images: Sequence[LabelledImage], image_size: int) -> Iterator[NDArray[np.float32]]:
    for image in images:
        tensor, _ = letterbox(read_image(image.path), image_size)
        yield tensor[None]


def _is_measured(group: RangeGroup) -> bool:
    return group.use not in (Use.UNIT, Use.SCORE)


def _ranges(plan: QuantizationPlan, histograms: Mapping[str, Histogram]) -> dict[str, ActivationRange]:
    """Return the range of each tensor of a plan."""
    ranges = {}
    for group in plan.groups:
        together = Histogram()
        for name in group.sources if _is_measured(group) else ():
            together.add_histogram(histograms[name])
        ranges.update(dict.fromkeys(group.tensors, _range(group.use, together)))
    return ranges


def _range(use: Use, histogram: Histogram) -> ActivationRange:
    if use is Use.UNIT:
        return UNIT_RANGE
    if use is Use.SCORE:
        return SCORE_LOGIT_RANGE
    if use is Use.BOX:
        return observed_range(histogram)
    return choose_range(histogram, after=silu if use is Use.SILU else None)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _describe(
    quantized: onnx.ModelProto,
    float_model: onnx.ModelProto,
    network: OnnxNetwork,
    *,
    parent: str,
    settings: Mapping[str, object],
) -> None:
    """Carry the float file's metadata over, with what it is now and what it was made from."""
    parents = {"onnx": parent, **(network.metadata or {}).get("parents", {})}
    card = make_card("int8", names=network.names, image_size=network.image_size, parents=parents, settings=settings)
    properties = {entry.key: entry.value for entry in float_model.metadata_props}
    helper.set_model_props(quantized, {**properties, "visionlora": json.dumps({**card, "nms": network.nms})})
