"""The class outputs of torchvision's detectors: what they stand for, and giving them the classes of a data set.

A convolution gives `anchors * outputs` channels, those of one anchor together; output 0 is the background. `categories`
of a model names its outputs as `weights.meta["categories"]` of torchvision does: where a number of COCO stands for
nothing, `N/A`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as _Coco
from torchvision.models.detection.ssd import SSD

BACKGROUND, NOTHING = "__background__", "N/A"
COCO: tuple[str, ...] = tuple(_Coco.COCO_V1.meta["categories"])
_RARE = -math.log((1 - 0.01) / 0.01)  # bias of a class that is seldom there (arXiv 1708.02002, section 4.1)


def class_rows(categories: Sequence[str]) -> list[int]:
    """Return which outputs stand for a class."""
    return [row for row, name in enumerate(categories) if name not in (BACKGROUND, NOTHING)]


def class_output_names(model: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the convolutions whose channels are the class scores."""
    head = model.get_submodule("head.classification_head")
    if isinstance(model, SSD):
        levels: Any = head.module_list
        return tuple(f"head.classification_head.module_list.{i}.{len(level) - 1}" for i, level in enumerate(levels))
    return ("head.classification_head.cls_logits",)


@torch.no_grad()
def set_classes(model: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Replace the class outputs of `model` in place by the background and outputs for `names`; return the new layers.

    The row of the background, and of a class that the model knows already by name without regard to case, is kept for
    every anchor; the others start as torchvision starts them. Where the classes are the model's own, in their order,
    nothing changes and () is returned.
    """
    old = [name.casefold() for name in model.categories]
    new = [BACKGROUND, *(name.casefold() for name in names)]
    if [old[row] for row in class_rows(model.categories)] == new[1:]:
        return ()
    replaced = class_output_names(model)
    softmax = isinstance(model, SSD)
    known = {name: old.index(name) for name in new if name in old and name != NOTHING.casefold()}
    for path in replaced:
        parent, _, attribute = path.rpartition(".")
        previous: Any = model.get_submodule(path)
        anchors = previous.out_channels // len(old)
        layer: Any = nn.Conv2d(
            previous.in_channels, anchors * len(new), previous.kernel_size, previous.stride, previous.padding
        )
        nn.init.normal_(layer.weight, std=0.03 if softmax else 0.01)
        nn.init.constant_(layer.bias, 0.0 if softmax else _RARE)
        for tensor, before in ((layer.weight, previous.weight), (layer.bias, previous.bias)):
            rows, own = tensor.unflatten(0, (anchors, len(new))), before.unflatten(0, (anchors, len(old)))
            for row, name in enumerate(new):
                if name in known:
                    rows[:, row] = own[:, known[name]]
        setattr(model.get_submodule(parent), attribute, layer.to(previous.weight))
    head = model.head.classification_head
    setattr(head, "num_columns" if softmax else "num_classes", len(new))
    model.categories = (BACKGROUND, *names)
    return replaced
