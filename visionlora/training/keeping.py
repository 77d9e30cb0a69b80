"""What a file costs that keeps its base beside an adapter: computed before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import FLOAT32
from visionlora.detectors import family_of
from visionlora.detectors.family import Base
from visionlora.errors import UsageError
from visionlora.patching import KEEP
from visionlora.tasks import task_words

MOST = 1.5
"""Times the base alone that a file with both may compute, where nothing else is asked for."""
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
def kept_costs(base: Base, image_size: int) -> tuple[KeptCost, ...]:
    """Compute what the file costs for every first module with weights; the base's classes count for the adapter's.

    Args:
        base: an Ultralytics detector of boxes, keypoints or oriented boxes.
        image_size: side of the square input in pixels.

    Raises:
        UsageError: the base is another.
    """
    if base.family != "ultralytics" or base.task.outputs != 1 or not base.task.boxes:
        raise UsageError(
            f"--keep {KEEP}: expected an Ultralytics detector of boxes, keypoints or oriented boxes, got {base.path}, "
            f"{base.family}, task {task_words(base.task)}"
        )
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
    total, size = multiplications.total(), _FLOAT * weights.total()

    def behind(counted: Counter[int], start: int) -> int:
        return sum(value for number, value in counted.items() if number >= start)

    return tuple(
        KeptCost(start, 1 + behind(multiplications, start) / total, size + _FLOAT * behind(weights, start), size)
        for start in sorted(multiplications)
        if start
    )


def default_start(costs: Sequence[KeptCost]) -> int:
    """Return the first module from which on base and adapter compute at most `MOST` times the base; else the last."""
    return next((cost.start for cost in costs if cost.ratio <= MOST), costs[-1].start)


def check_kept_settings(settings: AdapterSettings, costs: Sequence[KeptCost]) -> AdapterSettings:
    """Return the settings of an adapter that can stand beside its base: targets `all` become those that cost little.

    Args:
        settings: as they were asked for.
        costs: of the base.

    Raises:
        UsageError: such an adapter changes the first module, or more than weights that a patch can put in.
    """
    usual = default_start(costs)
    if settings.targets == "all":
        settings = replace(settings, targets=f"from:{usual}")
    found, last = re.fullmatch(r"from:(\d+)", settings.targets), costs[-1].start
    words = settings.targets.split("+")
    if not (found and 0 < int(found[1]) <= last) and not {*words} <= {"neck", "head"}:
        raise UsageError(
            f"--keep {KEEP} --targets {settings.targets}: expected from:N with N from 1 to {last}, neck or head: what "
            f"lies before is shared with the base; from:{usual} is the usual here"
        )
    problems = {
        f"--method {settings.method.name}": not settings.method.merges,
        f"--base-precision {settings.base_precision}": settings.base_precision != FLOAT32,
        f"--activation {settings.activation}": settings.activation != "silu",
    }
    wrong = [option for option, is_wrong in problems.items() if is_wrong]
    if wrong:
        raise UsageError(f"--keep {KEEP}: cannot be with {', '.join(wrong)}: the base stays as it is; leave it out")
    return settings


def kept_lines(costs: Sequence[KeptCost]) -> list[str]:
    """Return a table of what the file costs; nothing where none is kept."""
    if not costs:
        return []
    usual = default_start(costs)
    return [
        "",
        "| base and adapter in one file | time of the base | MB | of the base |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| from:{cost.start}{' (default)' if cost.start == usual else ''} | {cost.ratio:.2f} | "
            f"{cost.bytes / 1e6:.2f} | {cost.bytes / cost.base_bytes:.2f} |"
            for cost in costs
        ),
        "",
        "Time by the multiplications of both paths; MB of float weights.",
    ]
