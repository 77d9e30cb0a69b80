"""What a file costs that keeps its base beside an adapter: computed before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from visionlora.detectors import family_of
from visionlora.detectors.family import Base
from visionlora.errors import UsageError

_FLOAT = 4  # bytes of a weight


@dataclass(frozen=True)
class KeptCost:
    """What a file with a base and one adapter beside it costs.

    Attributes:
        start: number of the first module that the adapter has for itself.
        ratio: multiplications of both paths to those of the base alone; time follows them nearly.
        bytes: of weights and biases in float, of both paths.
        base_bytes: of the base alone.
    """

    start: int
    ratio: float
    bytes: int
    base_bytes: int


@torch.no_grad()
def kept_costs(base: Base, starts: Sequence[int], image_size: int) -> tuple[KeptCost, ...]:
    """Compute what the file costs for several first modules; the base's classes count for those of the adapter.

    Args:
        base: an Ultralytics detector.
        starts: numbers of modules.
        image_size: side of the square input in pixels.

    Raises:
        UsageError: the base has no numbered modules, or none of such a number.
    """
    multiplications: Counter[int] = Counter()
    weights: Counter[int] = Counter()
    detector = family_of(base).raw_detector(base.model)

    def count(number: int) -> Any:
        def add(module: Any, inputs: Any, output: torch.Tensor) -> None:
            places = output.numel() // module.weight.shape[0]
            multiplications[number] += places * module.weight.numel()
            weights[number] += sum(parameter.numel() for parameter in module.parameters())

        return add

    for name, module in detector.named_modules():
        found = re.match(r"model\.model\.(\d+)\.", name)
        if found and isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count(int(found[1])))
    detector(torch.zeros(1, 3, image_size, image_size))
    last = max(multiplications, default=0)
    if not all(0 < start <= last for start in starts):
        raise UsageError(
            f"--targets: expected from:N with a module from 1 to {last} of {base.path}, got {list(starts)}"
        )
    total, size = multiplications.total(), _FLOAT * weights.total()

    def behind(counted: Counter[int], start: int) -> int:
        return sum(value for number, value in counted.items() if number >= start)

    return tuple(
        KeptCost(start, 1 + behind(multiplications, start) / total, size + _FLOAT * behind(weights, start), size)
        for start in starts
    )
