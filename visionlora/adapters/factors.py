"""How the factors of LoRA are trained: what they begin with, and how fast each learns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from visionlora.adapters.methods import METHODS, Method
from visionlora.errors import UsageError

STARTS = ("default", "principal", "gradient")
"""What A begins with. B is zero in each, so the adapted weight begins as the base's, and the file means the same."""
_FACTORS = {"lora_A", "lora_B"}
FACTORED = tuple(name for name, method in METHODS.items() if set(method.tensors) >= _FACTORS)
"""The methods that have such factors."""


@dataclass(frozen=True)
class FactorTraining:
    """What does not change the file of an adapter, but how training arrives at it.

    Attributes:
        start: one of `STARTS`: A is drawn; or has the right singular vectors of the weight, of the largest singular
            values; or those of the weight's gradient on the first batches.
        plus: how many times A's learning rate B's is, as in [LoRA+](https://arxiv.org/abs/2402.12354).

    Raises:
        UsageError: one of them is none of these.
    """

    start: str = STARTS[0]
    plus: float = 1.0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise UsageError(f"--start: expected one of {', '.join(STARTS)}, got {self.start!r:.40}")
        number = isinstance(self.plus, int | float) and not isinstance(self.plus, bool)
        if not (number and math.isfinite(self.plus) and self.plus >= 1):
            raise UsageError(f"--lora-plus: expected a number of at least 1, such as 4, got {self.plus!r:.40}")

    def check_method(self, name: str) -> None:
        """Refuse what would have no effect on a method.

        Raises:
            UsageError: the method has no factors A and B.
        """
        chosen = [
            option for option, given in (("--start", self.start != STARTS[0]), ("--lora-plus", self.plus != 1)) if given
        ]
        if chosen and name not in FACTORED:
            raise UsageError(f"{chosen[0]}: only with --method {' or '.join(FACTORED)}, not {name}; drop one of them")

    def check_layers(self, method: Method, weights: Iterable[tuple[int, ...]]) -> None:
        """Refuse what would have no effect on layers with weights of these shapes.

        Raises:
            UsageError: none of them has factors A and B.
        """
        if self != FactorTraining() and not any(set(method.shapes(weight)) >= _FACTORS for weight in weights):
            raise UsageError("--start, --lora-plus: no layer is adapted by factors; drop them, or lower --budget")
