"""Giving a detector the classes of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from ultralytics.nn.modules.head import Classify
from ultralytics.nn.tasks import DetectionModel

from visionlora.formats.text import class_names


def class_output_names(model: DetectionModel) -> tuple[str, ...]:
    """Return the dotted names of the layers whose outputs are the class scores, of every head.

    With YOLO26's masks, also that of the classes of pixels, which the loss reads.
    """
    head, last = model.model[-1], len(model.model) - 1
    if isinstance(head, Classify):
        return (f"model.{last}.linear",)
    towers = [tower for tower in ("cv3", "one2one_cv3") if getattr(head, tower, None) is not None]
    scores = [f"{tower}.{level}.{len(getattr(head, tower)[level]) - 1}" for tower in towers for level in range(head.nl)]
    pixels = getattr(getattr(head, "proto", None), "semseg", None)
    scores += [] if pixels is None else [f"proto.semseg.{len(pixels) - 1}"]
    return tuple(f"model.{last}.{name}" for name in scores)


@torch.no_grad()
def set_classes(model: DetectionModel, names: Sequence[str]) -> tuple[str, ...]:
    """Replace the class outputs of `model` in place by outputs for `names`; return the names of the new layers.

    The towers before them keep their pretrained width. The row of a class that the model knows already, by name
    without regard to case, is kept; the others start at random weights and the bias of a rare object, as Ultralytics
    starts them. Where the classes are the model's own, in their order, nothing changes and () is returned.
    """
    old = [name.casefold() for name in class_names(model.names)]
    new = [name.casefold() for name in names]
    if old == new:
        return ()
    replaced = class_output_names(model)
    for path in replaced:
        parent, _, index = path.rpartition(".")
        previous = model.get_submodule(path)
        layer: nn.Conv2d | nn.Linear
        if isinstance(previous, nn.Linear):
            layer = nn.Linear(previous.in_features, len(new))
        else:
            layer = nn.Conv2d(previous.in_channels, len(new), 1)
            level = parent.rpartition(".")[2]
            if level.isdigit():  # no classes of pixels
                bias = math.log(5 / len(new) / (640 / float(model.stride[int(level)])) ** 2)
                nn.init.constant_(cast(torch.Tensor, layer.bias), bias)
        assert layer.bias is not None
        for row, name in enumerate(new):
            if name in old:
                layer.weight[row] = previous.weight[old.index(name)]
                layer.bias[row] = previous.bias[old.index(name)]
        setattr(model.get_submodule(parent), index, layer.to(previous.weight))
    head = model.model[-1]
    if not isinstance(head, Classify):
        head.nc, head.no = len(new), len(new) + head.reg_max * 4
    model.nc = model.yaml["nc"] = len(new)
    model.names = dict(enumerate(names))
    return replaced
