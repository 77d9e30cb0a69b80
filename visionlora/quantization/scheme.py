"""In which integers a file computes, and how the ranges of its activations are chosen: one small value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from visionlora.errors import UsageError

METHODS = ("activation", "mse", "percentile", "minmax")
"""What a range is chosen by: the error behind the activation function, the mean squared error of the values
themselves, all but a share of outliers at each end, or every value."""

WEIGHTS = "int8, symmetric, per output channel"


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

    Raises:
        UsageError: `method` is not one of them.

    Example:
        >>> SCHEMES["x86"].activations
        'uint8, asymmetric, per tensor'
    """

    name: str
    symmetric: bool
    rewrites: bool = False
    fuses: bool = False
    method: str = METHODS[0]

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")

    @property
    def activations(self) -> str:
        """Integers of the activations, in words."""
        return "int8, symmetric, per tensor" if self.symmetric else "uint8, asymmetric, per tensor"

    @property
    def biases(self) -> str:
        """Numbers of the biases, in words."""
        return "float32" if self.fuses else "int32, scale of the input times scale of the weight"


X86 = Scheme("x86", symmetric=False, rewrites=True)
"""What onnxruntime computes in integers on x86. With int8 activations it would compute most of it in float there."""
ARM = Scheme("arm", symmetric=True, rewrites=True)
"""What onnxruntime computes in integers on 64-bit ARM, whose kernels multiply int8 by int8."""
TENSORRT = Scheme("tensorrt", symmetric=True, fuses=True)
"""What TensorRT's explicit quantization takes: no zero points, float biases, no step between convolution and SiLU."""
GENERIC = Scheme("generic", symmetric=False)
"""Plain QDQ for any other runtime."""
SCHEMES = {scheme.name: scheme for scheme in (X86, ARM, TENSORRT, GENERIC)}


def scheme_for(target: str, method: str = METHODS[0]) -> Scheme:
    """Return the scheme of a target.

    Raises:
        UsageError: `target` or `method` is unknown.
    """
    if target not in SCHEMES:
        raise UsageError(f"target: expected one of {', '.join(SCHEMES)}, got {target!r}")
    return replace(SCHEMES[target], method=method)
