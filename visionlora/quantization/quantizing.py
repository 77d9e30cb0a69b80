"""From a float detector to an int8 one that is as accurate, smaller and faster on a CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visionlora.cards import RECIPE_KEY, make_card
from visionlora.data import Dataset, LabelledImage, load_dataset
from visionlora.errors import ModelError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.preprocess import letterbox, read_image
from visionlora.quantization.calibration import calibrate, choose_images
from visionlora.quantization.checks import check_int8_convs, check_scores, check_size, check_speed
from visionlora.quantization.float_model import load_float_model
from visionlora.quantization.plan import plan_quantization
from visionlora.quantization.qdq import apply_recipe
from visionlora.quantization.recipe import IMAGES, QuantizationRecipe
from visionlora.quantization.scheme import WEIGHTS, X86, Scheme, scheme_for
from visionlora.runtime import OnnxNetwork


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
        recipe: what turns the float graph into this one; `apply_recipe` repeats it.
    """

    path: Path
    bytes: int
    float_bytes: int
    int8_convs: int
    convs: int
    float_layers: tuple[str, ...]
    images: int
    recipe: QuantizationRecipe


@dataclass(frozen=True, eq=False)
class FloatDetector:
    """A float detector that can be quantized.

    Attributes:
        path: its file.
        network: the file, executed by onnxruntime.
        model: its graph, ready for `calibrate` and `apply_recipe`.
    """

    path: Path
    network: OnnxNetwork
    model: onnx.ModelProto


def quantize(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    images: int = 32,
    seed: int = 0,
    target: str = X86.name,
    method: str = X86.method,
    input: str = IMAGES[0],
    recalibrate: bool = False,
    overwrite: bool = False,
) -> QuantizedModel:
    """Quantize a detector to int8, calibrated on images of the training split, or as its adapter was trained.

    A model whose adapter was trained with `quantize="int8"` keeps the ranges of that training; the images then only
    check the result.

    The file is kept only if it is much smaller, runs in int8 in onnxruntime, and still gives scores. onnxruntime's
    integer kernels are exact on x86 CPUs with VNNI; on older ones sums of large products may saturate.

    Args:
        model: an ONNX file that visionlora exported, or a stock Ultralytics export of a detector.
        data: the data.yaml whose training images are shown to the network.
        out: where to write the quantized file.
        images: how many images to calibrate on; all where there are fewer.
        seed: which images are chosen; every class is among them where possible.
        target: whom the file is for: `x86` and `arm` (onnxruntime on such a CPU), `tensorrt`, or `generic`.
        method: what activation ranges are chosen by: `activation` (the error behind the activation function), `mse`,
            `percentile` or `minmax`.
        input: `float32`, as the float file, or `uint8`: (1, S, S, 3) pixels as they lie in memory.
        recalibrate: choose ranges by the images even where the model brings trained ones.
        overwrite: replace `out` if it exists.

    Raises:
        DataError: the data set or one of its images cannot be used.
        ModelError: `model` is not a float detector that gives raw predictions.
        OutputError: `out` exists or cannot be written.
        QuantizationError: the quantized file fails a check; nothing is written.
        UsageError: `images` is below 1, `target`, `method` or `input` is unknown, or `out` is `model`.

    Example:
        >>> quantize("model.onnx", "data.yaml", "model.int8.onnx").int8_convs  # doctest: +SKIP
        87
    """
    if images < 1:
        raise UsageError(f"images: expected at least 1 calibration image, got {images}")
    scheme = scheme_for(target, method)
    model, out = Path(model), refuse_existing(out, overwrite=overwrite)
    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a name that ends in .onnx")
    if out.resolve() == model.resolve():
        raise UsageError(f"{out}: expected another file than the float model; it would be overwritten")
    source = load_float_detector(model)
    dataset = load_dataset(data, splits=("train",))
    chosen = choose_images(dataset.split("train"), images, seed=seed)
    inputs = _Inputs(chosen, source.network.image_size)
    trained = None if recalibrate else trained_recipe(source, scheme)
    recipe = replace(trained or calibrate(source.model, inputs, scheme), image=input)
    settings = {
        "ranges": "adapter" if trained else "images",
        "seed": seed,
        "images": len(chosen),
        "calibration": [_relative(image.path, dataset.yaml_path.parent) for image in chosen],
    }
    quantized = build_int8(source, recipe, settings)
    plan = plan_quantization(source.model.graph, float_layers=recipe.float_layers, fuses=scheme.fuses)
    float_bytes = model.stat().st_size
    with atomic_output(out) as partial:
        partial.write_bytes(quantized.SerializeToString(deterministic=True))
        size = check_size(partial, float_bytes)
        int8_convs = check_int8_convs(partial, plan.convs, scheme)
        check_scores(source.network, OnnxNetwork(partial), inputs)
        check_speed(model, partial, scheme)
    return QuantizedModel(out, size, float_bytes, int8_convs, len(plan.convs), plan.float_layers, len(chosen), recipe)


def calibrate_detector(
    source: FloatDetector, dataset: Dataset, *, images: int, seed: int
) -> tuple[QuantizationRecipe, tuple[LabelledImage, ...]]:
    """Return the recipe that training images of a data set give, and these images."""
    chosen = choose_images(dataset.split("train"), images, seed=seed)
    return calibrate(source.model, _Inputs(chosen, source.network.image_size), X86), chosen


def trained_recipe(source: FloatDetector, scheme: Scheme = X86) -> QuantizationRecipe | None:
    """Return the recipe that a model's adapter was trained with; None where it was trained in float.

    Raises:
        QuantizationError: it brings a recipe that cannot be read.
        UsageError: it was trained for other integers than the scheme's, or the scheme asks for another choice.
    """
    entries = {entry.key: entry.value for entry in source.model.metadata_props}
    if RECIPE_KEY not in entries:
        return None
    recipe = QuantizationRecipe.from_json(entries[RECIPE_KEY])
    if (scheme.symmetric, scheme.method) != (recipe.scheme.symmetric, recipe.scheme.method):
        raise UsageError(
            f"{source.path}: its ranges were trained as {recipe.scheme.activations}; for target {scheme.name} by "
            f"{scheme.method} ({scheme.activations}) leave them aside with --recalibrate"
        )
    return replace(recipe, scheme=scheme)


def load_float_detector(path: Path | str) -> FloatDetector:
    """Read a detector that is to be quantized.

    Raises:
        ModelError: it is not a float detector that gives raw predictions.
    """
    network = OnnxNetwork(path)
    model = load_float_model(path)
    _refuse_end_to_end(Path(path), network)
    return FloatDetector(Path(path), network, model)


def build_int8(
    source: FloatDetector, recipe: QuantizationRecipe, settings: Mapping[str, object] | None = None
) -> onnx.ModelProto:
    """Return the int8 form of a detector with its metadata: what it is now and what it was made from.

    Args:
        source: the float detector.
        recipe: how to quantize it.
        settings: what else the file is to say of its making.
    """
    quantized = apply_recipe(source.model, recipe)
    network, scheme = source.network, recipe.scheme
    described = {**asdict(scheme), "activations": scheme.activations, "weights": WEIGHTS, "biases": scheme.biases}
    card = make_card(
        "int8",
        names=network.names,
        image_size=network.image_size,
        parents={"onnx": sha256_of(source.path), **(network.metadata or {}).get("parents", {})},
        settings={
            "scheme": described,
            "float_layers": recipe.float_layers,
            "input": recipe.image,
            **(settings or {}),
        },
    )
    properties = {entry.key: entry.value for entry in source.model.metadata_props if entry.key != RECIPE_KEY}
    helper.set_model_props(quantized, {**properties, "visionlora": json.dumps({**card, "nms": network.nms})})
    return quantized


@dataclass(frozen=True)
class _Inputs:
    """The network's input for each of some images, read anew each time: many do not fit into memory."""

    images: tuple[LabelledImage, ...]
    image_size: int

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for image in self.images:
            yield letterbox(read_image(image.path), self.image_size)[0][None]


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


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
