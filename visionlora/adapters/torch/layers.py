"""The layers of a torch module whose weight can carry an adapter."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Layer:
    """One weight that can carry an adapter.

    Attributes:
        name: dotted name of the layer, such as `model.0.conv`, or `attention.in_proj` for a packed weight.
        weight: dotted path of the weight tensor.
        bias: dotted path that the bias has or would have.
        shape: shape of the weight; its first axis counts the output channels.
    """

    name: str
    weight: str
    bias: str
    shape: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """Output channels: the rows of the weight seen as a matrix."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Inputs of one output: in / groups * kernel area for a convolution; the columns of the matrix."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class SkippedLayer:
    """A layer that carries no adapter, and why."""

    name: str
    reason: str


_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PACKED = ("in_proj", "q_proj", "k_proj", "v_proj")


def transposed_layers(model: nn.Module, names: Collection[str]) -> tuple[Layer, ...]:
    """Return the transposed convolutions among `names`: they can be trained whole, though not carry an adapter."""
    return tuple(
        Layer(name, f"{name}.weight", f"{name}.bias", tuple(module.weight.shape))
        for name, module in model.named_modules()
        if isinstance(module, _TRANSPOSED) and name in names
    )


def adaptable_layers(model: nn.Module) -> tuple[tuple[Layer, ...], tuple[SkippedLayer, ...]]:
    """Return the layers of `model` that can carry an adapter, in definition order, and those that cannot.

    Convolutions (grouped, depthwise, dilated, any padding mode), linear layers, and the packed or separate projection
    weights of `nn.MultiheadAttention` can. Transposed convolutions cannot: their first axis is the input.

    Example:
        >>> from torch import nn
        >>> layers, skipped = adaptable_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 2)))
        >>> [layer.name for layer in layers], [layer.name for layer in skipped]
        (['0'], ['1'])
    """
    layers: list[Layer] = []
    skipped: list[SkippedLayer] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, _PLAIN):
            layers.append(Layer(name, f"{prefix}weight", f"{prefix}bias", tuple(module.weight.shape)))
        elif isinstance(module, nn.MultiheadAttention):
            for packed in _PACKED:
                weight = getattr(module, f"{packed}_weight")
                if weight is not None:
                    path, bias = f"{prefix}{packed}_weight", f"{prefix}{packed}_bias"
                    layers.append(Layer(f"{prefix}{packed}", path, bias, tuple(weight.shape)))
        elif isinstance(module, _TRANSPOSED):
            skipped.append(SkippedLayer(name, "transposed convolution: its first axis is the input"))
    return tuple(layers), tuple(skipped)
