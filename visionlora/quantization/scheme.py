"""In which integers a file computes, and how the ranges of its activations are chosen: one small value."""

from __future__ import annotations

from dataclasses import dataclass

from visionlora.errors import UsageError

METHODS = ("activation", "mse", "percentile", "minmax")
"""What a range is chosen by: the error behind the activation function, the mean squared error of the values
themselves, all but a share of outliers at each end, or every value."""

WEIGHTS = "int8, symmetric, per output channel"
BIASES = "int32, scale of the input times scale of the weight"


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a file are quantized.

    Attributes:
        name: whom it is for.
        symmetric: activations are int8 around a zero point of 0; otherwise uint8 with a zero point anywhere.
        rewrites: whether operations that onnxruntime is slow at are written in others, to the same numbers.
        method: what ranges are chosen by, one of `METHODS`.

    Raises:
        UsageError: `method` is not one of them.

    Example:
        >>> Scheme("x86", symmetric=False).activations
        'uint8, asymmetric, per tensor'
    """

    name: str
    symmetric: bool
    rewrites: bool = False
    method: str = METHODS[0]

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")

    @property
    def activations(self) -> str:
        """Integers of the activations, in words."""
        return "int8, symmetric, per tensor" if self.symmetric else "uint8, asymmetric, per tensor"


X86 = Scheme("x86", symmetric=False, rewrites=True)
"""What onnxruntime computes in integers on x86. With int8 activations it would compute most of it in float there."""
