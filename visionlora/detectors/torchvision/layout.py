"""How a torchvision detector is laid out: which norms follow which layers, what backbone, neck and head are."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import plan_adapter
from visionlora.detectors.family import AdaptedDetector, Base, StepSpec
from visionlora.detectors.torchvision.classes import set_classes
from visionlora.errors import UsageError
from visionlora.tasks import DETECT

_GROUPS = {
    "backbone": ("backbone.body.", "backbone.features."),
    "neck": ("backbone.fpn.", "backbone.extra."),
    "head": ("head.",),
}
"""How the names of layers begin, by the words that targets may be."""


def adapted(
    base: Base, names: Sequence[str], settings: AdapterSettings, *, relu: Callable[[], nn.Module] = nn.ReLU
) -> AdaptedDetector:
    """Return a copy of `base` with the classes that an adapter has, and its plan (see `Family`).

    Targets may be `all`, `backbone`, `neck`, `head`, sums of these such as `neck+head`, or a regular expression on
    layer names.

    Raises:
        UsageError: the settings match no layer, or ask for what torchvision's detectors do not have.
    """
    if base.task != DETECT:
        raise UsageError(f"--task {base.task.name}: torchvision's detectors find boxes alone; drop it")
    if settings.relu_targets:
        raise UsageError(
            f"--activation {settings.activation}: replaces SiLU, which torchvision's detectors do not have; drop it"
        )
    model = copy.deepcopy(base.model)
    whole = set_classes(model, names)
    plan = plan_adapter(model, settings, norms=norms_behind_layers(model), whole=whole, groups=_contains)
    return AdaptedDetector(model, plan)


def norms_behind_layers(model: nn.Module) -> dict[str, str]:
    """Return the path of the batch normalization behind each convolution.

    It is registered next: `conv1` and `bn1` of a ResNet's block, 0 and 1 of a `Conv2dNormActivation`.
    """
    found = {}
    for name, module in model.named_modules():
        children = list(module.named_children())
        for (layer, conv), (norm, behind) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(behind, nn.BatchNorm2d):
                found[f"{name}.{layer}"] = f"{name}.{norm}"
    return found


def fine_tunings(base: Base) -> dict[str, StepSpec]:
    """Return how torchvision's users fine-tune: all of it."""
    return {"full fine-tuning": StepSpec()}


def _contains(word: str, layer: str) -> bool | None:
    return layer.startswith(_GROUPS[word]) if word in _GROUPS else None
