"""A float detector in an ONNX file, ready to be quantized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from visionlora.errors import ModelError
from visionlora.formats.kinds import CHECKPOINT, ONNX
from visionlora.int8 import load_float_model
from visionlora.runtime import OnnxNetwork
from visionlora.runtime.network import ORT_ERRORS


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


def load_float_detector(path: Path | str) -> FloatDetector:
    """Read a detector that is to be quantized.

    Raises:
        ModelError: it is not a float detector that gives raw predictions.
    """
    if Path(path).suffix == CHECKPOINT.suffix:
        raise ModelError(
            f"{path}: expected an ONNX file, got a checkpoint; make an ONNX file of it first: visionlora export "
            f"--model {path} --out {Path(path).with_suffix(ONNX.suffix)}"
        )
    network = OnnxNetwork(path)
    model = load_float_model(path, network.task)
    _refuse_end_to_end(Path(path), network)
    return FloatDetector(Path(path), network, model)


def _refuse_end_to_end(path: Path, network: OnnxNetwork) -> None:
    """Finished detections would need another contract with whoever runs the quantized file."""
    blank = np.zeros((1, 3, network.image_size, network.image_size), dtype=np.float32)
    try:
        shape = network.session.run(None, {network.session.get_inputs()[0].name: blank})[0].shape
    except ORT_ERRORS as error:
        raise ModelError(f"{path}: onnxruntime cannot run it: {' '.join(str(error).split())}") from error
    rows = network.task.rows(len(network.names))
    if len(shape) != network.task.axes or shape[1] != rows:
        wanted = f"(1, {rows}, anchors)" if network.task.boxes else f"(1, {rows})"
        raise ModelError(
            f"{path}: expected raw predictions {wanted}, got {shape}; export it with visionlora, or with nms=None"
        )
