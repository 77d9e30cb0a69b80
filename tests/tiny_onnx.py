"""A detector of one convolution in an ONNX file: its output depends on the pixels, and it takes no time to build.

One of masks has a second convolution, for prototypes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from visionlora.tasks import DETECT, Pose, Segment, Task, task_fields

NAMES = ("scratch", "pit", "inclusion")
PREPROCESSING = {"image_size": 64, "letterbox": "square", "padding": 114, "channels": "RGB", "scale": "1/255"}


def own_metadata(*, nms: bool = True, image_size: int = 64, task: Task = DETECT) -> dict[str, Any]:
    """The `visionlora` entry of an exported file."""
    return {
        "format": 1,
        "kind": "onnx",
        "names": list(NAMES),
        "preprocessing": {**PREPROCESSING, "image_size": image_size},
        "nms": nms,
        "parents": {},
        "settings": {},
        "version": "0",
        **({} if task == DETECT else task_fields(task)),
    }


def write_detector(
    path: Path,
    *,
    image_size: int = 64,
    batch: int | str = 1,
    properties: dict[str, str] | None = None,
    task: Task = DETECT,
) -> Path:
    """Write images (batch, 3, S, S) -> output0 (batch, rows, (S / 8)**2): places in [0, S], scores in [0, 1].

    Args:
        path: where to write it.
        image_size: S, a multiple of 8.
        batch: the first dimension; a name makes it, and the size of the picture, dynamic.
        properties: the file's metadata; None writes that of an exported file.
        task: what it finds. Factors of prototypes are in [-1, 1], angles in [-pi / 4, 3 pi / 4].
    """
    rows, generator = task.rows(len(NAMES)), np.random.default_rng(0)
    extras = rows - 4 - len(NAMES)
    weights = generator.normal(0, 0.08, (rows, 3, 8, 8)).astype(np.float32)
    bias = np.array([0, 0, -1, -1, *[-0.4] * len(NAMES), *[0] * extras], dtype=np.float32)
    lowest, highest = [-1.0] * extras, [1.0] * extras
    if isinstance(task, Pose):
        lowest, highest = [0.0] * extras, ([image_size, image_size, 1.0][: task.dims]) * task.keypoints
    elif task.name == "obb":
        lowest, highest = [-np.pi / 4], [3 * np.pi / 4]
    low = np.array([0] * (4 + len(NAMES)) + lowest, dtype=np.float32).reshape(1, rows, 1)
    unit = np.array([image_size] * 4 + [1] * len(NAMES) + highest, dtype=np.float32).reshape(1, rows, 1) - low
    nodes = [
        helper.make_node("Conv", ["images", "weights", "bias"], ["features"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["features", "shape"], ["rows"]),
        helper.make_node("Sigmoid", ["rows"], ["fractions"]),
        helper.make_node("Mul", ["fractions", "unit"], ["scaled"]),
        helper.make_node("Add", ["scaled", "low"], ["output0"]),
    ]
    constants = {"weights": weights, "bias": bias, "shape": np.array([0, rows, -1]), "unit": unit, "low": low}
    dynamic = isinstance(batch, str)
    sides = ["height", "width"] if dynamic else [image_size, image_size]
    anchors = "anchors" if dynamic else (image_size // 8) ** 2
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, rows, anchors])]
    if isinstance(task, Segment):
        constants["prototypes"] = generator.normal(0, 0.1, (task.coefficients, 3, 4, 4)).astype(np.float32)
        nodes.append(helper.make_node("Conv", ["images", "prototypes"], ["output1"], strides=[4, 4]))
        shape = [batch, task.coefficients, *(["rows", "columns"] if dynamic else [image_size // 4] * 2)]
        outputs.append(helper.make_tensor_value_info("output1", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, *sides])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    if properties is None:
        card = own_metadata(image_size=image_size, task=task)
        properties = {"task": task.name, "visionlora": json.dumps(card)}
    return save(graph, path, properties)


def write_constant(
    path: Path, output: np.ndarray, properties: dict[str, str], *, moving: float | np.ndarray = 0.0
) -> Path:
    """Write images (1, 3, 64, 64) -> `output` plus `moving` times the sum of the picture's pixels."""
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["value", "nothing"], ["output0"]),
    ]
    constants = {"value": output.astype(np.float32), "zero": np.asarray(moving, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, output.shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return save(graph, path, properties)


def save(graph: onnx.GraphProto, path: Path, properties: dict[str, str]) -> Path:
    """Write a graph with its metadata."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
