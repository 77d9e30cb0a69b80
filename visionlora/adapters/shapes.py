"""Which tensors an adapter must have, under what names and of what shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from visionlora.errors import AdapterError

if TYPE_CHECKING:
    from visionlora.adapters.methods.method import Method

T = TypeVar("T")


class Shaped(Protocol):
    """A tensor of torch or numpy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""


BIAS = ".bias_delta"
"""Ends the name of what was added to a layer's bias."""
GAIN = ".gain_delta"
"""Ends the name of what live normalization came to: the adapted weight counts 1 + this, channel by channel."""


def method_tensor(layer: str, name: str) -> str:
    """Return the name in the file of a tensor that a method keeps for a layer.

    Example:
        >>> method_tensor("model.0.conv", "lora_A")
        'model.0.conv.lora_A.weight'
    """
    return f"{layer}.{name}.weight"


def adapted_shapes(
    method: Method, layer: str, weight: tuple[int, ...], *, bias: bool, gain: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all that an adapter holds for one adapted layer.

    Args:
        method: how the layer is adapted.
        layer: its name.
        weight: shape of its weight; the first axis counts the output channels.
        bias: whether its bias was trained.
        gain: whether the normalization behind it was, which has a bias too.
    """
    shapes = {method_tensor(layer, name): shape for name, shape in method.shapes(weight).items()}
    vectors = [*([BIAS] if bias or gain else []), *([GAIN] if gain else [])]
    return {**shapes, **{f"{layer}{ending}": (weight[0],) for ending in vectors}}


def is_of_method(method: Method, tensor: str) -> bool:
    """Whether a tensor of the file is one that the method keeps, by its name."""
    return any(tensor.endswith(method_tensor("", name)) for name in method.tensors)


def layer_of(method: Method, tensor: str) -> str:
    """Return the layer that a tensor of the file belongs to.

    Example:
        >>> from visionlora.adapters.methods import LoRA
        >>> layer_of(LoRA(), "model.0.conv.lora_A.weight"), layer_of(LoRA(), "model.23.cls.weight")
        ('model.0.conv', 'model.23.cls')
    """
    endings = (*(method_tensor("", name) for name in method.tensors), BIAS, GAIN, ".weight", ".bias")
    return next((tensor.removesuffix(ending) for ending in endings if tensor.endswith(ending)), tensor)


def tensors_of(method: Method, layer: str, weight: tuple[int, ...], tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of an adapter that a method keeps for one layer, by their short names."""
    return {name: tensors[method_tensor(layer, name)] for name in method.shapes(weight)}


def layer_rank(wanted: int, outputs: int, inputs: int) -> int:
    """Return `wanted`, or the largest rank whose two factors hold no more numbers than the weight itself.

    Example:
        >>> layer_rank(8, 64, 1), layer_rank(8, 64, 64)
        (1, 8)
    """
    return max(1, min(wanted, outputs * inputs // (outputs + inputs)))


def check_merges(method: Method) -> None:
    """Refuse a method whose adapters stay beside the weights.

    Raises:
        AdapterError: it is one.
    """
    if not method.merges:
        raise AdapterError(
            f"the method {method.name} adds layers; there is no weight that they could be folded into, so it cannot be "
            "merged or patched; export the base with it: visionlora export --model BASE --adapter FILE --out model.onnx"
        )


def check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Shaped]) -> None:
    """Compare tensor names and shapes.

    Raises:
        AdapterError: they differ; the message lists every difference, up to ten.
    """
    problems = [f"{name}: missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name}: belongs to no layer" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name}: expected shape {shape}, got {tuple(tensors[name].shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:10])
        raise AdapterError(f"the adapter does not fit the model: {len(problems)} tensors differ: {shown}")
