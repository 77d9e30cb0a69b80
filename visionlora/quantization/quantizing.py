"""From a float detector to an int8 one that is as accurate, smaller and faster on a CPU."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visionlora.adapters import read_adapter_card
from visionlora.adapters.folded_base import ENTRY as BASE_ENTRY
from visionlora.cards import RECIPE_KEY, data_hashes, family_in, make_card
from visionlora.data import Dataset, LabelledImage, load_dataset
from visionlora.data.leakage import calibration_images, choose_images
from visionlora.errors import QuantizationError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.formats.kinds import ONNX
from visionlora.formats.seal import seal
from visionlora.hub import local_file, refuse_hub_name
from visionlora.int8 import QuantizationRecipe, Scheme, apply_recipe, attach_recipe
from visionlora.int8.adapter_recipe import check_adapter_of
from visionlora.int8.plan import beside_boxes_and_scores
from visionlora.int8.recipe import IMAGES
from visionlora.int8.scheme import X86, scheme_for
from visionlora.patching import KEPT_ENTRY
from visionlora.quantization.accuracy import SENSITIVITY_IMAGES, AccuracyTarget, keep_budget
from visionlora.quantization.blank import warn_of_blank_images
from visionlora.quantization.calibration import calibrate
from visionlora.quantization.checks import check_int8_convs, check_scores, check_size, check_speed, sums_saturate
from visionlora.quantization.float_detector import FloatDetector, load_float_detector
from visionlora.quantization.report import QuantizationReport, is_report
from visionlora.reporting import list_words
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import Budget, Keep, load_split
from visionlora.vision.detections import PREDICTION_CONFIDENCE
from visionlora.vision.inference import placed
from visionlora.vision.preprocess import read_image

_FINE = ("pose", "obb")
"""Tasks whose keypoints or angles 256 levels are few for; mask factors and prototypes they are enough for."""
_LOGGER = logging.getLogger("visionlora")
_BEST_SUFFIX = f".best{ONNX.suffix}"
"""Of the file that comes nearest to a budget that cannot be kept."""


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized detector.

    Attributes:
        path: the file.
        bytes: its size.
        float_bytes: the size of the file it was made from.
        int8_convs: how many convolutions onnxruntime runs in int8.
        convs: how many there are, those left float for the sake of accuracy among them.
        float_layers: names of the layers that were left float on purpose.
        images: how many images it was calibrated on.
        recipe: what turns the float graph into this one; `apply_recipe` repeats it.
        report: what the file lost on the val split; None where neither a budget nor thresholds were asked for.
        trained_ranges: whether the ranges are those that the adapter was trained with.
        int4_convs: how many convolutions have int4 weights.
    """

    path: Path
    bytes: int
    float_bytes: int
    int8_convs: int
    convs: int
    float_layers: tuple[str, ...]
    images: int
    recipe: QuantizationRecipe
    report: QuantizationReport | None = None
    trained_ranges: bool = False
    int4_convs: int = 0


def quantize(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    images: int = 32,
    seed: int = 0,
    adapter: Path | str | None = None,
    target: str = X86.name,
    method: str = X86.method,
    weights: str | None = None,
    input: str = IMAGES[0],
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    thresholds: Keep | None = None,
    conf: float | None = None,
    reference: Path | str | None = None,
    recalibrate: bool = False,
    overwrite: bool = False,
) -> QuantizedModel:
    """Quantize a detector to int8, calibrated on images of the training split, or as its adapter was trained.

    A model whose adapter was trained with `quantize` keeps the ranges of that training; the images then only check the
    result.

    The file is kept only if it is much smaller, runs in int8 in onnxruntime, and still gives scores. onnxruntime's
    integer kernels are exact on x86 CPUs with VNNI; on older ones sums of large products saturate, which int7 weights
    avoid. A word is logged where this CPU is one of them.

    With a budget, the file is judged against the float one on the val split. Where it loses more, groups of layers go
    back to float, those first that cost most accuracy for their time, until it holds; with int4 weights, they get int8
    ones first, if that is enough. What it lost, and for which layers, stands beside `out` in a report
    (`model.int8.json` beside `model.int8.onnx`).

    Args:
        model: an ONNX file that visionlora exported, or a stock Ultralytics export of a detector.
        data: the data.yaml whose training images are shown to the network.
        out: where to write the quantized file.
        images: how many images to calibrate on; all where there are fewer.
        seed: which images are chosen; every class is among them where possible.
        adapter: the adapter file that `model` was made with; the recipe is written into it, for `patch` with int8.
        target: whom the file is for: `x86` and `arm` (onnxruntime on such a CPU), `tensorrt`, or `generic`.
        method: what activation ranges are chosen by: `activation` (the error behind the activation function), `mse`,
            `percentile` or `minmax`.
        weights: what weights are kept in: `int8`, `int7` for x86 CPUs without VNNI, or `int4` for a smaller file that
            computes the same way (see docs/quantization.md); None takes what the adapter was trained for, `int8` where
            it was trained in float or with `recalibrate`.
        input: `float32`, as the float file, or `uint8`: (1, S, S, 3) pixels as they lie in memory.
        max_drop: budget: how much mAP50-95, or top-1, the file may lose against the float one, as a fraction of 1.
        max_class_drop: budget: how much AP50-95 of any class it may lose.
        thresholds: write a score threshold a class into the file, fitted on the val split to keep the float model's
            `recall` or `precision` at `conf`; None writes none.
        conf: the float model's threshold, for `thresholds`; 0.25 if None.
        reference: a float ONNX file that the budget and thresholds count from; `model` if None. For a model that was
            trained under fake quantization: what it was before, since that training may have lost accuracy itself.
        recalibrate: choose ranges by the images even where the model brings trained ones.
        overwrite: replace `out`, and the files that lie beside it, if they exist.

    Raises:
        DataError: the data set or one of its images cannot be used, or a calibration image is in the val or test split.
        ModelError: `model` is not a float detector that gives raw predictions.
        OutputError: `out` or a file beside it exists or cannot be written.
        QuantizationError: the quantized file fails a check, and nothing is written; or the budget cannot be kept, and
            the best file is written as `model.int8.best.onnx` with its report, and no `out`.
        UsageError: `images` is below 1, `target`, `method`, `weights` or `input` is unknown, a limit or `conf` is out
            of range, `conf` is given without `thresholds`, `out` is `model`, or `model` was made with another adapter.

    Example:
        >>> quantize("model.onnx", "data.yaml", "model.int8.onnx").int8_convs  # doctest: +SKIP
        87
    """
    if images < 1:
        raise UsageError(f"--images: expected at least 1 calibration image, got {images}")
    scheme = scheme_for(target, method, weights or "int8")
    if conf is not None and thresholds is None:
        raise UsageError("--conf: is the score threshold that --thresholds fits to; give both, or drop --conf")
    asked = AccuracyTarget(
        Budget(max_drop, max_class_drop), thresholds, PREDICTION_CONFIDENCE if conf is None else conf
    )
    if adapter is not None:
        refuse_hub_name(adapter, "--adapter")
    model, out = Path(local_file(model, ONNX)), Path(out)
    _check_out(out, model, judged=asked.judged, overwrite=overwrite)
    _warn_of_saturation(scheme)
    source = load_float_detector(model)
    _refuse_thresholds(source, thresholds)
    against = source if reference is None else _checked_reference(Path(local_file(reference, ONNX)), source, asked)
    if adapter is not None:
        _refuse_kept(model, source.network, adapter)
        check_adapter_of(model, (source.network.metadata or {}).get("parents", {}), adapter)
        used = read_adapter_card(adapter).settings.method
        if not used.merges:
            raise UsageError(
                f"--adapter {adapter}: writes the recipe into it for patch --int8, and the method {used.name} adds "
                "layers, which cannot be patched; drop --adapter"
            )
    dataset = load_dataset(data, splits=("train",), task=source.network.task)
    chosen = calibration_images(dataset, images, seed=seed)
    domain = load_split(data, task=source.network.task) if asked.judged else None
    inputs = _Inputs(chosen, source.network)
    trained = None if recalibrate else trained_recipe(source, scheme, weights)
    if trained is None:
        _warn_of_another_domain(source.network.names, dataset)
    recipe = replace(trained or _calibrate(source, inputs, scheme), image=input)
    settings: dict[str, object] = {
        "ranges": "adapter" if trained else "images",
        "seed": seed,
        "images": len(chosen),
        "calibration": [_relative(image.path, dataset.yaml_path.parent) for image in chosen],
    }
    if domain is None:
        made = _write(source, recipe, out, inputs, settings)
        if is_report(out.with_suffix(".json")):
            out.with_suffix(".json").unlink()  # of the file that was replaced
    else:
        shown = _Inputs(choose_images(chosen, SENSITIVITY_IMAGES, seed=seed), source.network)
        recipe, report = keep_budget(source, recipe, lambda one: build_int8(source, one), domain, asked, shown, against)
        settings["accuracy"] = report.for_card()
        made = _write_judged(source, recipe, out, inputs, settings, report)
    if adapter is not None:
        models = {"float_model": onnx.load(model), "int8_model": onnx.load(made.path)}
        fitted = None if made.report is None else made.report.thresholds_for(source.network.names)
        attach_recipe(adapter, recipe, **models, thresholds=fitted)
    return made


def _check_out(out: Path, model: Path, *, judged: bool, overwrite: bool) -> None:
    """Refuse a name for the int8 file, and files in its place and beside it.

    Args:
        out: the name.
        model: the float file.
        judged: whether a report and the best file may be written beside it.
        overwrite: replace what is there.

    Raises:
        UsageError: the name does not end in .onnx, or is the float model's.
        OutputError: a file exists and `overwrite` is false.
    """
    ONNX.check_out(out)
    if out.resolve() == model.resolve():
        raise UsageError(f"{out}: expected another file than the float model; it would be overwritten")
    files = int8_files(out)
    for path in files if judged else [path for path in files[:2] if path == out or is_report(path)]:
        refuse_existing(path, overwrite=overwrite)


def _refuse_thresholds(source: FloatDetector, thresholds: Keep | None) -> None:
    """Refuse thresholds for what has none."""
    if thresholds is not None and not source.network.task.boxes:
        raise UsageError(f"--thresholds: for detectors alone, and {source.path} classifies pictures; leave it out")


def _checked_reference(path: Path, source: FloatDetector, asked: AccuracyTarget) -> FloatDetector:
    """Read the detector that the budget counts from.

    Raises:
        ModelError: it is no float detector.
        UsageError: nothing counts from it, or it finds other classes than the one to quantize.
    """
    if not asked.judged:
        raise UsageError("--reference: only with --max-drop, --max-class-drop or --thresholds; add one or drop it")
    found = load_float_detector(path)
    if found.network.names != source.network.names:
        own, other = (", ".join(detector.network.names) for detector in (source, found))
        raise UsageError(f"--reference {path}: expected the classes of {source.path} ({own}), got {other}")
    return found


def int8_files(out: Path) -> tuple[Path, ...]:
    """Return all that `quantize` may write: the file, its report, and the best one with its report beside."""
    best = out.with_suffix(_BEST_SUFFIX)
    return out, out.with_suffix(".json"), best, best.with_suffix(".json")


def _write_judged(
    source: FloatDetector,
    recipe: QuantizationRecipe,
    out: Path,
    inputs: _Inputs,
    settings: Mapping[str, object],
    report: QuantizationReport,
) -> QuantizedModel:
    """Write the int8 file and its report; as the best one beside `out` where the budget is not kept."""
    best = out.with_suffix(_BEST_SUFFIX)
    made = _write(source, recipe, out if report.passed else best, inputs, settings, report)
    with atomic_output(made.path.with_suffix(".json")) as partial:
        partial.write_text(report.to_json(), encoding="utf-8")
    if not report.passed:
        for path in (out, out.with_suffix(".json")):
            path.unlink(missing_ok=True)  # of an earlier run: it would pass for this one's
        trained = settings["ranges"] == "adapter"
        other = "take --weights int8, " if recipe.scheme.weights == "int4" and not trained else ""
        raise QuantizationError(
            f"the budget cannot be kept: {'. '.join([report.sentence, *report.warnings]).rstrip('.')}. "
            f"The best file is {made.path}; train {'longer ' if trained else ''}with --quantize "
            f"{recipe.scheme.weights}, {other}allow more, or judge on more pictures"
        )
    for path in (best, best.with_suffix(".json")):
        path.unlink(missing_ok=True)  # of an earlier run that failed
    return made


def _write(
    source: FloatDetector,
    recipe: QuantizationRecipe,
    out: Path,
    inputs: _Inputs,
    settings: Mapping[str, object],
    report: QuantizationReport | None = None,
) -> QuantizedModel:
    """Write the int8 file if it passes the checks."""
    thresholds = None if report is None else report.thresholds_for(source.network.names)
    quantized = build_int8(source, recipe, settings, thresholds)
    plan = recipe.plan_for(source.model.graph)
    float_bytes = source.path.stat().st_size
    with atomic_output(out) as partial:
        partial.write_bytes(seal(quantized.SerializeToString(deterministic=True)))
        size = check_size(partial, float_bytes, recipe.scheme.weights)
        int8_convs = check_int8_convs(partial, plan.convs, recipe.scheme)
        check_scores(source.network, OnnxNetwork(partial), inputs)
        check_speed(source.path, partial, recipe.scheme)
    return QuantizedModel(
        path=out,
        bytes=size,
        float_bytes=float_bytes,
        int8_convs=int8_convs,
        convs=len(plan.convs) + len(recipe.float_layers),
        float_layers=plan.float_layers,
        images=len(inputs.images),
        recipe=recipe,
        report=report,
        trained_ranges=settings["ranges"] == "adapter",
        int4_convs=len(plan.int4),
    )


def calibrate_detector(
    source: FloatDetector, images: Sequence[LabelledImage], *, weights: str = "int8"
) -> QuantizationRecipe:
    """Return the recipe for x86 that images give.

    Raises:
        DataError: an image cannot be read, or none shows anything.
        QuantizationError: an activation is not finite.
    """
    return _calibrate(source, _Inputs(tuple(images), source.network), replace(X86, weights=weights))


def _calibrate(source: FloatDetector, inputs: _Inputs, scheme: Scheme) -> QuantizationRecipe:
    warn_of_blank_images(inputs.images)
    recipe = calibrate(source.model, inputs, scheme)
    if source.network.task.name not in _FINE:
        return recipe
    return replace(recipe, float_layers=beside_boxes_and_scores(source.model.graph))


def trained_recipe(
    source: FloatDetector, scheme: Scheme = X86, weights: str | None = None
) -> QuantizationRecipe | None:
    """Return the recipe that a model's adapter was trained with; None where it was trained in float.

    Args:
        source: the model.
        scheme: that of the file to be made.
        weights: what its weights are to be kept in; None for what the adapter was trained for.

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
    if weights not in (None, recipe.scheme.weights):
        raise UsageError(
            f"{source.path}: it was trained for {recipe.scheme.weights} weights, got --weights {weights}; drop it, or "
            "leave the trained ranges aside with --recalibrate"
        )
    return replace(recipe, scheme=replace(scheme, weights=recipe.scheme.weights))


def build_int8(
    source: FloatDetector,
    recipe: QuantizationRecipe,
    settings: Mapping[str, object] | None = None,
    thresholds: Sequence[float] | None = None,
) -> onnx.ModelProto:
    """Return the int8 form of a detector with its metadata: what it is now and what it was made from.

    Args:
        source: the float detector.
        recipe: how to quantize it.
        settings: what else the file is to say of its making.
        thresholds: the lowest score that counts, one a class; None leaves them to whoever runs the file.
    """
    quantized = apply_recipe(source.model, recipe)
    network, scheme = source.network, recipe.scheme
    card = make_card(
        "int8",
        names=network.names,
        image_size=network.image_size,
        parents={"onnx": sha256_of(source.path), **(network.metadata or {}).get("parents", {})},
        settings={
            "scheme": scheme.described(),
            **recipe.described_layers(),
            "input": recipe.image,
            **data_hashes((network.metadata or {}).get("settings")),
            **(settings or {}),
        },
        task=network.task,
        family=family_in(network.metadata),
    )
    card["nms"] = network.nms
    if thresholds is not None:
        card["thresholds"] = list(thresholds)
    if "kept" in (network.metadata or {}):
        card["kept"] = (network.metadata or {})["kept"]
    left = (BASE_ENTRY, KEPT_ENTRY, RECIPE_KEY)  # of the float file alone
    properties = {entry.key: entry.value for entry in source.model.metadata_props if entry.key not in left}
    helper.set_model_props(quantized, {**properties, "visionlora": json.dumps(card)})
    return quantized


def _refuse_kept(model: Path, network: OnnxNetwork, adapter: Path | str) -> None:
    """Refuse to write into an adapter how a file is quantized in which it stands beside its base."""
    if "kept" in (network.metadata or {}):
        raise UsageError(
            f"--adapter {adapter}: expected a model of the adapter alone, got {model}, in which it stands beside its "
            "base; leave --adapter out: patch --int8 does not make such a file"
        )


def _warn_of_saturation(scheme: Scheme) -> None:
    if scheme.name == "x86" and scheme.weights != "int7" and sums_saturate():
        _LOGGER.warning(
            "this CPU has no integer dot products (VNNI): sums of an int8 file saturate here, and it finds less than "
            "on one that has them; for such CPUs use --weights int7"
        )


def _warn_of_another_domain(names: Sequence[str], dataset: Dataset) -> None:
    if set(names).isdisjoint(dataset.names):
        _LOGGER.warning(
            "%s: its classes (%s) are none of the model's (%s); calibration pictures should be from the model's own "
            "domain, or accuracy is lost",
            dataset.yaml_path,
            list_words(dataset.names),
            list_words(names),
        )


@dataclass(frozen=True)
class _Inputs:
    """The network's input for each of some images, read anew each time: many do not fit into memory."""

    images: tuple[LabelledImage, ...]
    network: OnnxNetwork

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for image in self.images:
            yield placed(self.network.task, read_image(image.path), self.network.image_size)[0][None]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
