"""What a quantized file must pass before it is kept: it is small, it really runs in int8, and it still sees objects."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from visionlora.errors import QuantizationError
from visionlora.int8 import Scheme
from visionlora.int8.limits import WEIGHT_MAX
from visionlora.runtime.network import ORT_ERRORS, OnnxNetwork
from visionlora.vision.detections import EVALUATION_CONFIDENCE
from visionlora.vision.inference import Network

MAX_SIZE_RATIO = {"int8": 0.45, "int7": 0.45, "int4": 0.25}
"""Largest allowed share of the float file's bytes. Weights in int8 alone make it 0.25, mostly in int4 0.15."""
MIN_INT8_SHARE = 0.9
"""Smallest allowed share of the convolutions that onnxruntime runs in int8."""
SLOWEST = 1.1
"""Largest allowed time of a quantized file against its float file: above, it is no noise of the measurement."""
SHORTEST = 1e-3
"""Seconds of a float network whose time is that of its arithmetic, and not of starting each operation."""
_INT8_CONVS = frozenset({"ConvInteger", "QLinearConv"})
_X86_MACHINES = ("x86_64", "amd64")


def check_size(path: Path, float_bytes: int, weights: str = "int8") -> int:
    """Return the bytes of a quantized file.

    Args:
        path: the file.
        float_bytes: bytes of the float file.
        weights: what the weights are kept in.

    Raises:
        QuantizationError: it is not much smaller than the float file.
    """
    size, most = path.stat().st_size, MAX_SIZE_RATIO[weights]
    if size > most * float_bytes:
        raise QuantizationError(
            f"expected a file of at most {most:.0%} of the float file's {float_bytes} bytes, got {size}; "
            f"its weights are not in {weights}, or the network is too small for {weights} to pay"
        )
    return size


def check_int8_convs(path: Path, convs: Sequence[str], scheme: Scheme) -> int:
    """Return how many convolutions run in int8.

    They are counted in the graph that onnxruntime makes of the file, on a CPU of its target. QuantizeLinear nodes
    prove nothing: onnxruntime computes what it cannot fuse in float, more slowly than before. Where the runtime fuses
    by itself, as TensorRT does, those count whose picture and weights both come from int8 levels.

    Args:
        path: the quantized file.
        convs: the layers that are meant to run in int8.
        scheme: that of the file.

    Raises:
        QuantizationError: fewer than `MIN_INT8_SHARE` of them do.
    """
    run_in_int8 = _convs_from_levels(path) if scheme.fuses else _int8_convs(path, signed=scheme.symmetric)
    int8 = len(run_in_int8)
    if int8 < MIN_INT8_SHARE * len(convs) or not convs:
        runtime = "the runtime" if scheme.fuses else "onnxruntime"
        in_float = [name for name in convs if name not in run_in_int8]
        names = ", ".join(in_float[:5]) + (f" and {len(in_float) - 5} more" if len(in_float) > 5 else "")
        raise QuantizationError(
            f"expected at least {MIN_INT8_SHARE:.0%} of {len(convs)} convolutions in int8, {runtime} runs {int8}; "
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
        outputs = int8_network(tensor)
        if not all(np.isfinite(output).all() for output in outputs):
            raise QuantizationError("the quantized network gives NaN or infinity on a calibration image")
        best_int8 = max(best_int8, float(np.max(int8_network.task.split(outputs)[1])))
        best_float = max(best_float, float(np.max(float_network.task.split(float_network(tensor))[1])))
    if best_int8 <= EVALUATION_CONFIDENCE < best_float:
        raise QuantizationError(
            f"the quantized network finds nothing: its best score on the calibration images is {best_int8:.4f}, "
            f"the float network's {best_float:.4f}"
        )


@cache
def sums_saturate(weight: int = WEIGHT_MAX) -> bool:
    """Whether onnxruntime adds up products of uint8 and an int8 weight in 16 bits here, as on x86 without VNNI."""
    size = 64
    weights = numpy_helper.from_array(np.full((size, 16), weight, dtype=np.int8), "weights")
    node = helper.make_node("MatMulInteger", ["levels", "weights"], ["sums"])
    levels, sums = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("levels", onnx.TensorProto.UINT8, (1, size)),
            ("sums", onnx.TensorProto.INT32, (1, 16)),
        )
    )
    graph = helper.make_graph([node], "sums", [levels], [sums], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"levels": np.full((1, size), 255, dtype=np.uint8)})
    return bool((found != size * 255 * weight).any())


def check_speed(float_path: Path, int8_path: Path, scheme: Scheme, *, runs: int = 15) -> float:
    """Return how many times as fast as the float file a quantized one runs here; 1 where that says nothing.

    The two take turns on one thread, and the fastest run of each counts: whatever else the machine does can only
    slow a run down.

    Args:
        float_path: the original.
        int8_path: its quantized form.
        scheme: that of the file. Only x86 files are timed, and only on such a CPU.
        runs: how often each runs.

    Raises:
        QuantizationError: the quantized file is slower.
    """
    if scheme.name != "x86" or platform.machine().lower() not in _X86_MACHINES:
        return 1.0
    networks = [OnnxNetwork(path, threads=1) for path in (float_path, int8_path)]
    seconds: list[list[float]] = [[], []]
    for _ in range(runs + 1):
        for network, taken in zip(networks, seconds, strict=True):
            taken.append(network.seconds_for_blank())
    before, after = (min(taken[1:]) for taken in seconds)  # the first run of each also allocates
    if before < SHORTEST:
        return 1.0
    if after > SLOWEST * before:
        raise QuantizationError(
            f"the quantized file is slower than the float one: {1e3 * after:.2f} ms against {1e3 * before:.2f} ms on "
            "one thread; the network is too small for int8 to pay, or this CPU has no integer dot products (VNNI)"
        )
    return before / after


def _int8_convs(path: Path, *, signed: bool) -> list[str]:
    """Names of the convolutions that run in int8 in the graph that onnxruntime makes of a file."""
    nodes = _optimised_nodes(path, signed=signed)
    return [node.name for node in nodes if node.op_type in _INT8_CONVS]


def _convs_from_levels(path: Path) -> list[str]:
    """Names of the convolutions that read nothing but restored int8 levels."""
    graph = onnx.load(path).graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in graph.node if node.op_type == "Conv" and restored.issuperset(node.input[:2])]


def _optimised_nodes(path: Path, *, signed: bool) -> list[onnx.NodeProto]:
    """Nodes of the graph that onnxruntime makes of a file; `signed` as on a CPU with kernels for int8 activations."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: saving such a graph warns that it is for this machine
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        if signed:
            options.add_session_config_entry("session.qdqisint8allowed", "1")
        try:
            onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise QuantizationError(f"{path}: onnxruntime cannot write its optimised graph: {reason}") from error
        return list(onnx.load(target).graph.node)
