"""How much of a detector's error comes from each group of its layers, measured at its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visionlora.int8 import QuantizationRecipe, apply_recipe
from visionlora.quantization.groups import LayerGroup
from visionlora.tasks import RawPrediction, Task, one_image


def group_errors(
    task: Task,
    model: onnx.ModelProto,
    recipe: QuantizationRecipe,
    groups: Sequence[LayerGroup],
    inputs: Sequence[NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Return the error that each group alone brings into the predictions of each class.

    The float network is run with one group after the other in int8. Errors are squared, so that those of several groups
    add up as far as they are independent of each other.

    Args:
        task: of the model.
        model: the float model, as `load_float_model` reads it.
        recipe: how to quantize it.
        groups: of its layers.
        inputs: (1, 3, S, S) each.

    Returns:
        (groups, classes).
    """
    wanted = _outputs(model, inputs)
    everything = {layer for group in groups for layer in group.layers} | set(recipe.float_layers)
    errors = []
    for group in groups:
        others = tuple(sorted(everything - set(group.layers)))
        only = replace(recipe, float_layers=others, image="float32")  # as the inputs are
        got = _outputs(apply_recipe(model, only), inputs)
        errors.append(prediction_error(task, wanted, got))
    return np.array(errors)


def prediction_error(task: Task, wanted: Sequence[RawPrediction], got: Sequence[RawPrediction]) -> NDArray[np.float64]:
    """Return the mean squared error of each class's predictions, those with high scores counting most.

    The error of a prediction is that of its score, and how far its overlap with what it should be is from 1.
    Each counts by the square of the score that it should have: what will be no detection does not count.

    Args:
        task: what is predicted; it says what overlap is, of boxes their IoU.
        wanted: raw predictions for one image each, with the batch.
        got: as many of the same shapes.

    Returns:
        (classes,); zero for a class that no score was above zero of.
    """
    classes = task.split(wanted[0])[1].shape[1]
    total, weight = np.zeros(classes), np.zeros(classes)
    for one, other in zip(wanted, got, strict=True):
        one, other = one_image(one, 0), one_image(other, 0)
        scores, other_scores = (  # (classes, anchors); a classifier's are (classes,)
            task.split(each)[1].astype(np.float64).reshape(classes, -1) for each in (one, other)
        )
        distance = 1 - task.overlap(one, other)
        error = (other_scores - scores) ** 2 + distance**2
        total += (scores**2 * error).sum(axis=1)
        weight += (scores**2).sum(axis=1)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _outputs(model: onnx.ModelProto, inputs: Sequence[NDArray[np.float32]]) -> list[RawPrediction]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [tuple(session.run(None, {model.graph.input[0].name: tensor})) for tensor in inputs]
