"""Hand-made graphs and what they compute, in NumPy and by definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from visionlora.int8.ranges import ActivationRange

NAMES = ("scratch", "pit", "inclusion")
IMAGE_SIZE = 64


def node(kind: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    """A node; inputs and outputs are names with spaces between."""
    return helper.make_node(
        kind, inputs.split(" "), outputs.split(" "), name=name or outputs.split(" ")[0], **attributes
    )


def silu(source: str, target: str) -> list[onnx.NodeProto]:
    return [node("Sigmoid", source, f"{target}.sigmoid"), node("Mul", f"{source} {target}.sigmoid", target)]


def build(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    *,
    shape: Sequence[int] = (1, 3, 16, 16),
    output: str = "output0",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with one input `images` and one output."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, images: np.ndarray, *, optimised: bool = True) -> np.ndarray:
    """The model's output; not optimised means in float exactly as the file says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def tensors_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, pad: int = 0, groups: int = 1
) -> np.ndarray:
    """A convolution by its definition."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    parts = [
        np.einsum("nchwkl,ockl->nohw", part, of_group)
        for part, of_group in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    return np.concatenate(parts, axis=1) + bias.reshape(1, -1, 1, 1)


def rounded(x: np.ndarray, chosen: ActivationRange) -> np.ndarray:
    """Values rounded to the 256 levels of a range."""
    scale = np.float32((chosen.high - chosen.low) / 255 or 1)
    zero = round(-chosen.low / float(scale))
    return (np.clip(np.round(x.astype(np.float32) / scale) + zero, 0, 255) - zero).astype(np.float32) * scale


def rounded_conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, chosen: ActivationRange, **options: int
) -> np.ndarray:
    """A convolution of already rounded values with weights in 255 levels a channel and a bias to match."""
    scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    by_channel = scale.reshape(-1, 1, 1, 1)
    bias_scale = scale * np.float32((chosen.high - chosen.low) / 255 or 1)
    return conv(x, np.round(weight / by_channel) * by_channel, np.round(bias / bias_scale) * bias_scale, **options)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def random_conv(
    rng: np.random.Generator, outputs: int, inputs: int, kernel: int, gain: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias."""
    weight = rng.normal(0, gain / np.sqrt(inputs * kernel**2), (outputs, inputs, kernel, kernel))
    return weight.astype(np.float32), rng.normal(0, 0.2, outputs).astype(np.float32)


def detector(*, seed: int = 0, width: int = 48) -> onnx.ModelProto:
    """images (1, 3, 64, 64) -> output0 (1, 4 + 3, 64), with the parts of a real one: SiLU, split, pool, heads."""
    rng = np.random.default_rng(seed)
    shapes = {"stem": (width, 3, 4), "mix": (width, width, 3), "box": (4, width, 1), "score": (3, width, 1)}
    constants = {"rows4": np.array([1, 4, -1]), "rows3": np.array([1, 3, -1]), "unit": np.float32([64])}
    for name, (outputs, inputs, kernel) in shapes.items():
        constants[f"{name}.weight"], constants[f"{name}.bias"] = random_conv(rng, outputs, inputs, kernel, 2.0)
    constants["score.bias"] -= 2
    nodes = [
        node("Conv", "images stem.weight stem.bias", "stem", strides=[8, 8]),
        *silu("stem", "stem.out"),
        node("Split", "stem.out", "left right", axis=1),
        node("MaxPool", "right", "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", "left pooled", "joined", axis=1),
        node("Conv", "joined mix.weight mix.bias", "mix", pads=[1, 1, 1, 1]),
        *silu("mix", "mix.out"),
        node("Conv", "mix.out box.weight box.bias", "box"),
        node("Conv", "mix.out score.weight score.bias", "score"),
        node("Reshape", "box rows4", "box.rows"),
        node("Mul", "box.rows unit", "boxes"),
        node("Reshape", "score rows3", "score.rows"),
        node("Sigmoid", "score.rows", "scores"),
        node("Concat", "boxes scores", "output0", axis=1),
    ]
    return build(nodes, constants, shape=(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model as Ultralytics does, with the metadata that a reader needs."""
    names = str(dict(enumerate(NAMES)))
    helper.set_model_props(model, {"task": "detect", "names": names, "imgsz": f"[{IMAGE_SIZE}, {IMAGE_SIZE}]"})
    onnx.save(model, path)
    return path
