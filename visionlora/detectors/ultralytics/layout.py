"""How an Ultralytics detector is laid out: which norms follow which layers, what backbone, neck and head are."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import AdapterPlan, layer_selector, plan_adapter
from visionlora.detectors.family import AdaptedDetector, Base, StepSpec
from visionlora.detectors.ultralytics.classes import set_classes
from visionlora.detectors.ultralytics.heads import with_task
from visionlora.detectors.ultralytics.sites import sites_of
from visionlora.errors import UsageError


def adapted(
    base: Base,
    names: Sequence[str],
    settings: AdapterSettings,
    *,
    relu: Callable[[], nn.Module] = nn.ReLU,
) -> AdaptedDetector:
    """Return a copy of `base` with the task, classes and activations that an adapter has, and its plan (see `Family`).

    Raises:
        UsageError: the settings match no layer, or the base cannot have the task.
    """
    model, new = with_task(cast(DetectionModel, copy.deepcopy(base.model)), base.task)
    whole = (*new, *set_classes(model, names))
    plan = plan_detector(model, settings, whole=whole)
    set_activations(model, settings, kind=relu)
    return AdaptedDetector(model, plan)


def plan_detector(model: DetectionModel, settings: AdapterSettings, *, whole: Collection[str]) -> AdapterPlan:
    r"""Plan the adapter of a detector whose layers `whole` are new (see `set_classes` and `with_task`).

    Targets may be `all`, `backbone`, `neck`, `head`, sums of these such as `neck+head`, `from:N` (module N of the
    model and all behind it), `to:N` (module N and all before it), or a regular expression on layer names such as
    `model\.22\..*`.

    Raises:
        UsageError: the targets match nothing.
    """
    return plan_adapter(
        model,
        settings,
        norms=norms_behind_layers(model),
        whole=whole,
        constants=dict.fromkeys(constant_layers(model), "constant of the box decoding (DFL)")
        | dict.fromkeys(flow_layers(model), "serves the loss of keypoints alone"),
        groups=_groups(model),
        sites=sites_of(model, settings.method),
    )


def set_activations(
    model: DetectionModel, settings: AdapterSettings, *, kind: Callable[[], nn.Module] = nn.ReLU
) -> int:
    """Put ReLU (or another `kind`) in place of SiLU where the adapter's settings say so; return how many there are.

    Raises:
        UsageError: the settings name layers, but none with a SiLU behind it.
    """
    if not settings.relu_targets:
        return 0
    chosen = layer_selector(settings.relu_targets, _groups(model))
    blocks = [
        module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "act", None), nn.SiLU) and chosen(f"{name}.conv")
    ]
    if not blocks:
        raise UsageError(f"--activation {settings.activation!r}: no layer with a SiLU behind it matches")
    for block in blocks:
        block.act = kind()  # one each: Ultralytics shares one SiLU among all
    return len(blocks)


def fine_tunings(base: Base) -> dict[str, StepSpec]:
    """Return the ways in which Ultralytics' users fine-tune: all of it, with frozen modules, the head alone."""
    head = len(cast(DetectionModel, base.model).model) - 1
    some = {"freeze=10": StepSpec(frozen=10)} if head > 10 else {}  # a classifier has no module behind these
    return {"full fine-tuning": StepSpec(), **some, "head only": StepSpec(frozen=head)}


def norms_behind_layers(model: nn.Module) -> dict[str, str]:
    """Return the path of the batch normalization behind each convolution of an Ultralytics `Conv` block."""
    return {
        f"{name}.conv": f"{name}.bn"
        for name, module in model.named_modules()
        if isinstance(getattr(module, "conv", None), nn.Conv2d)
        and isinstance(getattr(module, "bn", None), nn.BatchNorm2d)
        and not hasattr(module, "cv2")  # Conv2 adds a second convolution before the norm
    }


def module_inputs(module: Any, x: Any, outputs: Sequence[Any]) -> Any:
    """Return what a module of a detector reads: `x`, the output of the one before it, or those of others by number."""
    if isinstance(module.f, int):
        return x if module.f == -1 else outputs[module.f]
    return [x if number == -1 else outputs[number] for number in module.f]


def constant_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that are constants of the box decoding."""
    return [f"{name}.conv" for name, module in model.named_modules() if isinstance(module, DFL)]


def flow_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers by which YOLO26's loss of keypoints knows errors (arXiv 2107.11291)."""
    return [name for name, module in model.named_modules() if ".flow_model." in name and isinstance(module, nn.Linear)]


def _groups(model: DetectionModel) -> Callable[[str, str], bool | None]:
    backbone, last = len(model.yaml["backbone"]), len(model.model) - 1
    ranges = {"backbone": (0, backbone), "neck": (backbone, last), "head": (last, last + 1)}

    def contains(word: str, layer: str) -> bool | None:
        part = re.fullmatch(r"(from|to):(\d+)", word)
        if word not in ranges and not part:
            return None
        if part is None:
            first, end = ranges[word]
        else:
            first, end = (int(part[2]), last + 1) if part[1] == "from" else (0, int(part[2]) + 1)
        number = re.match(r"model\.(\d+)\.", layer)
        return bool(number) and first <= int(number[1]) < end if number else False

    return contains
