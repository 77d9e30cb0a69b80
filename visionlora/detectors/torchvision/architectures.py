"""The architectures of torchvision's detectors that are known here: by name, and told from the keys of a state dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FCOS, RetinaNet, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

PYRAMID = 256
"""Channels of a feature pyramid as torchvision builds it."""
SSDLITE = "ssdlite320_mobilenet_v3_large"
_BLOCKS: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}
"""ResNets by whether their blocks are bottlenecks, and how many blocks a stage has."""
_NAME = re.compile(rf"(fcos|retinanet)_({'|'.join(_BLOCKS.values())})_fpn(_v2)?(?:_(\d+))?")
_CLASSES = "head.classification_head.cls_logits.weight"
_SSDLITE_CLASSES = "head.classification_head.module_list.0.1.weight"
_OTHERS: Mapping[str, str] = {
    "roi_heads.": "Faster R-CNN and its kin: their second stage pools regions (RoIAlign) of a number that changes from "
    "picture to picture, which neither the raw predictions nor the INT8 of this project hold",
    "head.classification_head.module_list.": "SSD: VGG without batch normalization, 35 M parameters",
}
"""Detectors of torchvision that are refused, by how the names of their tensors begin, and why."""
_MOST_CHANNELS, _MOST_OUTPUTS = 1 << 12, 1 << 16
HEADS = ("head.", "roi_heads.")
"""How the names of tensors begin that a detector of torchvision has behind its `backbone.`."""


@dataclass(frozen=True)
class Architecture:
    """A detector's architecture.

    Attributes:
        detector: `fcos`, `retinanet` or `ssdlite`.
        backbone: a ResNet by torchvision's name; empty for `ssdlite`.
        v2: of a RetinaNet, torchvision's second version.
        channels: of the feature pyramid and the towers behind it.
    """

    detector: str
    backbone: str = ""
    v2: bool = False
    channels: int = PYRAMID

    @property
    def name(self) -> str:
        """As torchvision calls its builder; with another width of the pyramid behind it where that is not usual."""
        if self.detector == "ssdlite":
            return SSDLITE
        width = "" if self.channels == PYRAMID else f"_{self.channels}"
        return f"{self.detector}_{self.backbone}_fpn{'_v2' * self.v2}{width}"

    def build(self, outputs: int) -> nn.Module:
        """Return a detector at random weights with so many class outputs, the background among them."""
        if self.detector == "ssdlite":
            return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=outputs)
        body: Any = get_model(self.backbone, weights=None)
        widths = [body.fc.in_features // 4, body.fc.in_features // 2, body.fc.in_features]
        last = LastLevelP6P7(widths[-1] if self.v2 else self.channels, self.channels)
        layers = {f"layer{number}": str(number - 2) for number in (2, 3, 4)}
        backbone = BackboneWithFPN(body, layers, widths, self.channels, extra_blocks=last)
        if self.detector == "fcos":
            return FCOS(backbone, outputs)
        anchors = _default_anchorgen()
        norm = partial(nn.GroupNorm, 32) if self.v2 else None
        head = RetinaNetHead(self.channels, anchors.num_anchors_per_location()[0], outputs, norm_layer=norm)
        if self.v2:
            head.regression_head._loss_type = "giou"
        return RetinaNet(backbone, outputs, anchor_generator=anchors, head=head)


def named(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises:
        ValueError: it is none that is known here.
    """
    if name == SSDLITE:
        return Architecture("ssdlite")
    found = _NAME.fullmatch(name)
    if found is None or (found[3] and found[1] == "fcos") or int(found[4] or PYRAMID) % 32:
        raise ValueError(
            f"expected fcos_BACKBONE_fpn, retinanet_BACKBONE_fpn, retinanet_BACKBONE_fpn_v2, with one of "
            f"{', '.join(_BLOCKS.values())}, or {SSDLITE}, got {name!r:.60}"
        )
    return Architecture(found[1], found[2], bool(found[3]), int(found[4] or PYRAMID))


def looks_like_one(names: Iterable[Any]) -> bool:
    """Whether tensors of these names are of a detector of torchvision, known here or not."""
    texts = [name for name in names if isinstance(name, str)]
    return any(name.startswith("backbone.") for name in texts) and any(name.startswith(HEADS) for name in texts)


def recognised(state: Mapping[str, torch.Tensor]) -> tuple[Architecture, int]:
    """Return the architecture of a state dict, and how many class outputs it has, the background among them.

    Raises:
        ValueError: it is of no detector that is known here.
    """
    if _SSDLITE_CLASSES in state:
        return Architecture("ssdlite"), len(state[_SSDLITE_CLASSES]) // 6
    for beginning, what in _OTHERS.items():
        if any(name.startswith(beginning) for name in state):
            raise ValueError(f"no support for {what}; give FCOS, RetinaNet or SSDlite")
    if _CLASSES not in state or not looks_like_one(state):
        raise ValueError("expected the state dict of a detector of torchvision, got other tensors")
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    counts = tuple(
        len({name.split(".")[3] for name in state if name.startswith(f"backbone.body.layer{stage}.")})
        for stage in range(1, 5)
    )
    if (bottleneck, counts) not in _BLOCKS:
        raise ValueError(f"expected the backbone {', '.join(_BLOCKS.values())}, got one of {counts} blocks a stage")
    is_fcos = "head.regression_head.bbox_ctrness.weight" in state
    v2 = not is_fcos and "head.classification_head.conv.0.1.weight" in state
    outputs, channels = len(state[_CLASSES]), state[_CLASSES].shape[1]
    if channels > _MOST_CHANNELS or outputs > _MOST_OUTPUTS:  # a stored view may state any size
        raise ValueError(f"expected at most {_MOST_CHANNELS} channels and {_MOST_OUTPUTS} class outputs")
    anchors = 1 if is_fcos else 9
    if outputs % anchors:
        raise ValueError(f"expected {anchors} anchors a place, as torchvision has them, got {outputs} class outputs")
    return Architecture(
        "fcos" if is_fcos else "retinanet", _BLOCKS[bottleneck, counts], v2, channels
    ), outputs // anchors
