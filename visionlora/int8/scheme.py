"""In which integers a file computes and keeps its weights, and how ranges are chosen: one small value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from visionlora.errors import UsageError
from visionlora.int8.int4 import GROUP, INT8_SHARE
from visionlora.int8.limits import INT7_MAX, WEIGHT_MAX

METHODS = ("activation", "mse", "percentile", "minmax")
"""What a range is chosen by: the error behind the activation function, the mean squared error of the values
themselves, all but a share of outliers at each end, or every value."""

WEIGHTS = {
    "int8": "int8, symmetric, per output channel",
    "int7": f"int8 in [-{INT7_MAX}, {INT7_MAX}], symmetric, per output channel",
    "int4": (
        f"int4, symmetric, in groups of up to {GROUP} that are whole multiples of the output channel's scale; int8 in "
        f"the smallest layers, {INT8_SHARE:.0%} of all"
    ),
}
"""What a file keeps its weights in, with the words for it. Convolutions compute in int8 either way."""


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a file are quantized, and where.

    Attributes:
        name: whom it is for.
        symmetric: activations are int8 around a zero point of 0; otherwise uint8 with a zero point anywhere.
        rewrites: what only moves values moves levels, and operations that onnxruntime is slow at are written in
            others; the numbers stay. Otherwise QuantizeLinear and DequantizeLinear stand around every operation.
        fuses: the runtime fuses a convolution with the float activation behind it. Only what convolutions read is
            quantized then, and biases stay float.
        method: what ranges are chosen by, one of `METHODS`.
        weights: what the weights are kept in, one of `WEIGHTS`.

    Raises:
        UsageError: `method` or `weights` is not one of them, or the target takes no int4 weights.

    Example:
        >>> SCHEMES["x86"].activations
        'uint8, asymmetric, per tensor'
    """

    name: str
    symmetric: bool
    rewrites: bool = False
    fuses: bool = False
    method: str = METHODS[0]
    weights: str = "int8"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"--method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.weights not in WEIGHTS:
            raise UsageError(f"--weights: expected one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if self.weights == "int4" and self.symmetric:
            # onnxruntime (1.32) on x86 opens no file of opset 21 with int8 activations, so none could be checked.
            raise UsageError(f"--target {self.name}: expected int8 weights, got int4, which x86 and generic take")

    @property
    def activations(self) -> str:
        """Integers of the activations, in words."""
        return "int8, symmetric, per tensor" if self.symmetric else "uint8, asymmetric, per tensor"

    @property
    def largest_weight(self) -> int:
        """The largest int8 weight."""
        return INT7_MAX if self.weights == "int7" else WEIGHT_MAX

    @property
    def biases(self) -> str:
        """Numbers of the biases, in words."""
        return "float32" if self.fuses else "int32, scale of the input times scale of the weight"

    def described(self) -> dict[str, Any]:
        """Return what a file's metadata says of it."""
        words = {"activations": self.activations, "weights": WEIGHTS[self.weights], "biases": self.biases}
        return {**asdict(self), **words}


X86 = Scheme("x86", symmetric=False, rewrites=True)
"""What onnxruntime computes in integers on x86. With int8 activations it would compute most of it in float there."""
ARM = Scheme("arm", symmetric=True, rewrites=True)
"""What onnxruntime computes in integers on 64-bit ARM, whose kernels multiply int8 by int8."""
TENSORRT = Scheme("tensorrt", symmetric=True, fuses=True)
"""What TensorRT's explicit quantization takes: no zero points, float biases, no step between convolution and SiLU."""
GENERIC = Scheme("generic", symmetric=False)
"""Plain QDQ for any other runtime."""
SCHEMES = {scheme.name: scheme for scheme in (X86, ARM, TENSORRT, GENERIC)}


def scheme_for(target: str, method: str = METHODS[0], weights: str = "int8") -> Scheme:
    """Return the scheme of a target.

    Raises:
        UsageError: `target`, `method` or `weights` is unknown, or the target takes no such weights.
    """
    if target not in SCHEMES:
        raise UsageError(f"--target: expected one of {', '.join(SCHEMES)}, got {target!r}")
    return replace(SCHEMES[target], method=method, weights=weights)
