"""Which training images a model is calibrated on, what its activations are on them, and what recipe follows."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from visionlora.errors import QuantizationError
from visionlora.int8 import QuantizationRecipe, Scheme
from visionlora.int8.histogram import Histogram
from visionlora.int8.plan import RangeGroup, Use, plan_quantization
from visionlora.int8.ranges import SCORE_LOGIT_RANGE, UNIT_RANGE, ActivationRange, choose_range, observed_range, silu

_LOGGER = logging.getLogger("visionlora")
MEMORY = 256 * 2**20
"""Bytes of activations that are held at a time."""


def calibrate(model: onnx.ModelProto, inputs: Iterable[NDArray[np.float32]], scheme: Scheme) -> QuantizationRecipe:
    """Return the recipe that serves a float model on some inputs; nothing but what must be stays float in it.

    Args:
        model: the float model, as `load_float_model` reads it.
        inputs: one (1, 3, S, S) a time.
        scheme: in which integers, and what ranges are chosen by.

    Raises:
        QuantizationError: an activation is not finite, or there is no input.

    An activation that never changes is logged: what it is on other pictures is not known.
    """
    groups = plan_quantization(model.graph, fuses=scheme.fuses).groups
    histograms = measure(model, [name for group in groups for name in _measured(group)], inputs)
    constant = [name for name, histogram in histograms.items() if len(histogram.points()[0]) < 2]
    if constant:
        _LOGGER.warning(
            "%d of %d activations have one value on all calibration pictures, such as %s: their ranges say nothing of "
            "other pictures; calibrate on more, and on such as the device will see",
            len(constant),
            len(histograms),
            constant[0],
        )
    ranges = {}
    for group in groups:
        together = Histogram()
        for name in _measured(group):
            together.add_histogram(histograms[name])
        ranges.update(dict.fromkeys(group.tensors, range_for(group.use, together, scheme)))
    return QuantizationRecipe(scheme, ranges)


def range_for(use: Use, histogram: Histogram, scheme: Scheme) -> ActivationRange:
    """Return the range of an activation whose values were counted; what is known beforehand needs no count."""
    if use is Use.UNIT:
        return UNIT_RANGE.made(symmetric=scheme.symmetric)
    if use is Use.SCORE:
        return SCORE_LOGIT_RANGE.made(symmetric=scheme.symmetric)
    if use is Use.BOX:
        return observed_range(histogram).made(symmetric=scheme.symmetric)
    after = silu if use is Use.SILU else None
    return choose_range(histogram, after=after, method=scheme.method, symmetric=scheme.symmetric)


def _measured(group: RangeGroup) -> tuple[str, ...]:
    """Return the tensors whose values have to be counted."""
    return () if group.use in (Use.UNIT, Use.SCORE) else group.sources


def measure(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[NDArray[np.float32]], *, memory: int = MEMORY
) -> dict[str, Histogram]:
    """Run a float model and count the values of some of its tensors.

    Args:
        model: a graph with one input.
        tensors: names of float tensors in it.
        inputs: one (1, 3, S, S) a time.
        memory: bytes of activations to hold at a time. More tensors than fit are measured in several runs.

    Returns:
        A histogram a tensor, over all inputs.

    Raises:
        QuantizationError: an activation is not finite, or there is no input.
    """
    histograms = {name: Histogram() for name in tensors}
    sessions: list[tuple[onnxruntime.InferenceSession, list[str]]] = []
    for tensor in inputs:
        if not sessions:
            sessions = [(_open_session(model, part), part) for part in _parts(model, tensors, tensor.shape, memory)]
        for session, names in sessions:
            for name, values in zip(names, session.run(names, {model.graph.input[0].name: tensor}), strict=True):
                try:
                    histograms[name].add(values)
                except QuantizationError as error:
                    raise QuantizationError(f"activation {name} of the float model: {error}") from error
    if not sessions:
        raise QuantizationError("expected at least one calibration image, got none")
    return histograms


def _open_session(model: onnx.ModelProto, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    """Return a session of the same graph that hands out other tensors."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _parts(model: onnx.ModelProto, tensors: Sequence[str], shape: Sequence[int], memory: int) -> Iterator[list[str]]:
    """Split the tensors so that each part fits into memory; a tensor larger than that goes alone."""
    sizes = bytes_of_tensors(model, shape)
    unknown = max(sizes.values(), default=memory)
    part: list[str] = []
    used = 0
    for name in tensors:
        size = sizes.get(name, unknown)
        if part and used + size > memory:
            yield part
            part, used = [], 0
        part.append(name)
        used += size
    if part:
        yield part


def bytes_of_tensors(model: onnx.ModelProto, shape: Sequence[int]) -> dict[str, int]:
    """Sizes of the tensors whose shape follows from that of the input."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for dimension, size in zip(fixed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    sizes = {}
    for value in [*inferred.value_info, *inferred.output]:
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            sizes[value.name] = 4 * math.prod(dimension.dim_value for dimension in dimensions)
    return sizes
