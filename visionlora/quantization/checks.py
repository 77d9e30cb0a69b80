"""What a quantized file must pass before it is kept: it is small, it really runs in int8, and it still sees objects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visionlora.detections import EVALUATION_CONFIDENCE
from visionlora.errors import QuantizationError
from visionlora.inference import Network
from visionlora.runtime.network import ORT_ERRORS

MAX_SIZE_RATIO = 0.45
"""Largest allowed share of the float file's bytes. Weights in int8 alone make it 0.25."""
MIN_INT8_SHARE = 0.9
"""Smallest allowed share of the convolutions that onnxruntime runs in int8."""
_INT8_CONVS = frozenset({"ConvInteger", "QLinearConv"})


def check_size(path: Path, float_bytes: int) -> int:
    """Return the bytes of a quantized file.

    Raises:
        QuantizationError: it is not much smaller than the float file.
    """
    size = path.stat().st_size
    if size > MAX_SIZE_RATIO * float_bytes:
        raise QuantizationError(
            f"expected a file of at most {MAX_SIZE_RATIO:.0%} of the float file's {float_bytes} bytes, got {size}; "
            "its weights are not in int8, or the network is too small for int8 to pay"
        )
    return size


def check_int8_convs(path: Path, convs: Sequence[str]) -> int:
    """Return how many convolutions onnxruntime runs in int8, counted in the graph that it makes of the file.

    QuantizeLinear nodes prove nothing: onnxruntime computes what it cannot fuse in float, more slowly than before.

    Args:
        path: the quantized file.
        convs: the layers that are meant to run in int8.

    Raises:
        QuantizationError: fewer than `MIN_INT8_SHARE` of them do.
    """
    nodes = _optimised_nodes(path)
    int8 = sum(node.op_type in _INT8_CONVS for node in nodes)
    if int8 < MIN_INT8_SHARE * len(convs) or not convs:
        run_in_int8 = {node.name for node in nodes if node.op_type in _INT8_CONVS}
        in_float = [name for name in convs if name not in run_in_int8]
        names = ", ".join(in_float[:5]) + (f" and {len(in_float) - 5} more" if len(in_float) > 5 else "")
        raise QuantizationError(
            f"expected at least {MIN_INT8_SHARE:.0%} of {len(convs)} convolutions in int8, onnxruntime runs {int8}; "
            f"in float: {names or 'none'}"
        )
    return int8


def check_scores(float_network: Network, int8_network: Network, inputs: Iterable[NDArray[np.float32]]) -> None:
    """Compare the best scores of a float and a quantized network on the same inputs.

    Args:
        float_network: the original.
        int8_network: its quantized form.
        inputs: one (1, 3, S, S) a time.

    Raises:
        QuantizationError: an output is NaN or infinite, or no score is left where the float network had some.
    """
    best_float, best_int8 = 0.0, 0.0
    for tensor in inputs:
        output = int8_network(tensor)
        if not np.isfinite(output).all():
            raise QuantizationError("the quantized network gives NaN or infinity on a calibration image")
        best_int8 = max(best_int8, float(np.max(output[:, 4:])))
        best_float = max(best_float, float(np.max(float_network(tensor)[:, 4:])))
    if best_int8 <= EVALUATION_CONFIDENCE < best_float:
        raise QuantizationError(
            f"the quantized network finds nothing: its best score on the calibration images is {best_int8:.4f}, "
            f"the float network's {best_float:.4f}"
        )


def _optimised_nodes(path: Path) -> list[onnx.NodeProto]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: saving such a graph warns that it is for this machine
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise QuantizationError(f"{path}: onnxruntime cannot write its optimised graph: {reason}") from error
        return list(onnx.load(target).graph.node)
