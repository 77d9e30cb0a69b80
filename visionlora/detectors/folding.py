"""What an exported graph must remember of its checkpoint, so that adapters can be patched into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from visionlora.adapters import FoldedBase, FoldedNorm
from visionlora.adapters.torch import Layer, adaptable_layers
from visionlora.detectors.family import Base


@torch.no_grad()
def folded_base(
    base: Base,
    constants: Mapping[str, NDArray[Any]],
    *,
    norms: Mapping[str, str],
    class_outputs: Sequence[str],
    fixed: Collection[str] = (),
    unused: Collection[str] = (),
) -> FoldedBase:
    """Return how `base` was folded into an exported graph.

    A layer is remembered only if its exported weight and bias follow from what is remembered, to the bit. So one that
    the exporter changed in another way, such as two convolutions that became one, cannot be patched wrongly: an
    adapter that touches it is refused.

    Args:
        base: the checkpoint.
        constants: the exported weights and biases under their names in the checkpoint, such as `model.0.conv.weight`.
        norms: path of the batch normalization behind a layer, by layer name.
        class_outputs: names of the layers whose channels are the class scores.
        fixed: names of layers that no adapter changes.
        unused: names of layers that the graph does not have.
    """
    folded: dict[str, FoldedNorm] = {}
    plain = []
    for layer in adaptable_layers(base.model)[0]:
        if layer.name in fixed or layer.name in unused:
            continue
        if layer.weight not in constants or layer.bias not in constants:
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
        class_outputs=tuple(name for name in class_outputs if name not in unused),
        unused=tuple(unused),
    )


def _fold(model: nn.Module, layer: Layer, path: str, exported: NDArray[Any]) -> FoldedNorm | None:
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


def _missing(folded: FoldedNorm, exported: NDArray[Any], original: NDArray[Any]) -> NDArray[np.int8]:
    """Return by how many steps of float32 the recovered weight misses the original, as far as int8 can say it."""
    none = np.zeros(original.shape, dtype=np.int8)
    recovered = FoldedNorm(folded.gain, folded.shift, folded.beta, none).original(exported)
    steps = original.view(np.int32).astype(np.int64) - recovered.view(np.int32)
    return np.clip(steps, -127, 127).astype(np.int8)


def _array(model: nn.Module, path: str) -> NDArray[np.float32]:
    owner, _, attribute = path.rpartition(".")
    tensor = getattr(model.get_submodule(owner), attribute)
    return tensor.detach().float().cpu().contiguous().numpy()
