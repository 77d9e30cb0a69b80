"""What an exported graph must remember of its checkpoint, so that adapters can be patched into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import FoldedBase, FoldedNorm
from visionlora.adapters.torch import Layer, adaptable_layers
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.classes import class_output_names
from visionlora.detectors.ultralytics.heads import is_left_out
from visionlora.detectors.ultralytics.layout import constant_layers, norms_behind_layers


@torch.no_grad()
def folded_base(base: Base, constants: Mapping[str, NDArray]) -> FoldedBase:
    """Return how `base` was folded into an exported graph.

    A layer is remembered only if its exported weight and bias follow from what is remembered, to the bit. So one that
    the exporter changed in another way, such as two convolutions that became one, cannot be patched wrongly: an
    adapter that touches it is refused.

    Args:
        base: the checkpoint.
        constants: the exported weights and biases under their names in the checkpoint, such as `model.0.conv.weight`.
    """
    norms, fixed = norms_behind_layers(base.model), set(constant_layers(base.model))
    layers = [layer for layer in adaptable_layers(base.model)[0] if layer.name not in fixed]
    unused = tuple(layer.name for layer in layers if is_left_out(cast(DetectionModel, base.model), layer.name))
    folded: dict[str, FoldedNorm] = {}
    plain = []
    for layer in layers:
        if layer.name in unused or layer.weight not in constants or layer.bias not in constants:
            continue
        weight, bias = constants[layer.weight], constants[layer.bias]
        if layer.name in norms:
            norm = _fold(base.model, layer, norms[layer.name], weight)
            if norm is not None and np.array_equal(norm.bias(None), bias):
                folded[layer.name] = norm
        elif np.array_equal(_array(base.model, layer.weight), weight) and np.array_equal(
            _array(base.model, layer.bias), bias
        ):
            plain.append(layer.name)
    return FoldedBase(
        name=base.path.name,
        fingerprint=base.fingerprint,
        norms=folded,
        plain=tuple(plain),
        class_outputs=tuple(name for name in class_output_names(base.model) if name not in unused),
        unused=unused,
    )


def _fold(model: nn.Module, layer: Layer, path: str, exported: NDArray) -> FoldedNorm | None:
    """Return how the norm was folded, computed in the order of torch's own `fuse_conv_bn_weights`."""
    norm = cast(nn.BatchNorm2d, model.get_submodule(path))
    mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    inverse = torch.rsqrt(variance + norm.eps)
    bias = getattr(model.get_submodule(layer.name), "bias", None)
    shift = ((torch.zeros_like(mean) if bias is None else bias) - mean) * inverse * norm.weight
    gain = (norm.weight * inverse).numpy()
    original = _array(model, layer.weight)
    folded = FoldedNorm(gain, shift.numpy(), norm.bias.numpy().copy())
    alive = gain != 0
    if not np.array_equal(folded.fold(original), exported):
        return None
    if not np.array_equal(folded.original(exported)[alive], original[alive]):  # a checkpoint in full precision
        ulps = _missing(folded, exported, original)
        folded = FoldedNorm(folded.gain, folded.shift, folded.beta, ulps)
    return folded if np.array_equal(folded.original(exported)[alive], original[alive]) else None


def _missing(folded: FoldedNorm, exported: NDArray, original: NDArray) -> NDArray[np.int8]:
    """Return by how many steps of float32 the recovered weight misses the original, as far as int8 can say it."""
    none = np.zeros(original.shape, dtype=np.int8)
    recovered = FoldedNorm(folded.gain, folded.shift, folded.beta, none).original(exported)
    steps = original.view(np.int32).astype(np.int64) - recovered.view(np.int32)
    return np.clip(steps, -127, 127).astype(np.int8)


def _array(model: nn.Module, path: str) -> NDArray[np.float32]:
    owner, _, attribute = path.rpartition(".")
    tensor = getattr(model.get_submodule(owner), attribute)
    return tensor.detach().float().cpu().contiguous().numpy()
