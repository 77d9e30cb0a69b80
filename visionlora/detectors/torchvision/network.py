"""What is run of a torchvision detector: images in, raw prediction out, as torchvision's own `forward` computes it.

Its `transform` would resize the images, and its `postprocess_detections` suppress; this project does both itself.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from visionlora.detectors.torchvision.classes import class_rows
from visionlora.detectors.torchvision.layout import norms_behind_layers

STRIDE = 32
"""A side of the input is a multiple of it, as torchvision pads pictures (`size_divisible`)."""


class RawDetector(nn.Module):
    """A detector without its framework: images in, raw prediction out, batch normalization folded.

    Input (n, 3, S, S) RGB in [0, 1]; output a tuple of (n, rows, anchors): centres and sizes of boxes in pixels,
    cut off at the border of the input, and scores. The anchors of a size are made once: they are constants in a graph.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).float().eval()
        for layer, norm in norms_behind_layers(self.model).items():
            parent, _, attribute = layer.rpartition(".")
            fused = fuse_conv_bn_eval(
                cast(nn.Conv2d, self.model.get_submodule(layer)), cast(nn.BatchNorm2d, self.model.get_submodule(norm))
            )
            setattr(self.model.get_submodule(parent), attribute, fused)
            parent, _, attribute = norm.rpartition(".")
            setattr(self.model.get_submodule(parent), attribute, nn.Identity())
        self._anchors: dict[tuple[int, torch.device], torch.Tensor] = {}
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the raw prediction for `images`."""
        features = features_of(self.model, images)
        key = (images.shape[-1], images.device)
        if key not in self._anchors:
            self._anchors[key] = anchors_of(self.model, images, features)
        return (decoded(self.model, self.model.head(features), self._anchors[key], images.shape[-1]),)  # type: ignore[operator]


def raw_prediction(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the raw prediction of a detector as it stands, in eval mode; it may carry an adapter (see `Family`)."""
    features = features_of(model, images)
    return (decoded(model, model.head(features), anchors_of(model, images, features), images.shape[-1]),)


def features_of(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the feature maps (n, C, H, W) that the head reads, of images (n, 3, S, S) in [0, 1]."""
    mean, std = (
        torch.tensor(each, device=images.device).view(1, 3, 1, 1)
        for each in (model.transform.image_mean, model.transform.image_std)
    )
    return list(model.backbone((images - mean) / std).values())


def anchors_of(model: Any, images: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
    """Return centre x, centre y, width and height (4, anchors) of the anchors in pixels of the input."""
    (boxes,) = model.anchor_generator(ImageList(images[:1], [(images.shape[-2], images.shape[-1])]), features)
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1).T.contiguous()


def decoded(model: Any, outputs: dict[str, torch.Tensor], anchors: torch.Tensor, size: int) -> torch.Tensor:
    """Return the raw prediction (n, rows, anchors) of what a head gives.

    Args:
        model: the detector; its box coder says what the numbers of a box are.
        outputs: `cls_logits` (n, anchors, outputs), `bbox_regression` (n, anchors, 4) and, of FCOS, `bbox_ctrness`.
        anchors: (4, anchors), see `anchors_of`.
        size: side of the input in pixels.
    """
    logits, regression = (outputs[name].transpose(1, 2) for name in ("cls_logits", "bbox_regression"))
    centres, sizes = anchors[:2], anchors[2:]
    if isinstance(model, FCOS):  # distances of the sides from the centre, in sizes of the anchor
        low, high = centres - regression[:, :2] * sizes, centres + regression[:, 2:] * sizes
        scores = torch.sqrt(logits.sigmoid() * outputs["bbox_ctrness"].transpose(1, 2).sigmoid())
    else:
        coder = model.box_coder
        weights = [1 / weight for weight in coder.weights]
        middle = centres + regression[:, :2] * regression.new_tensor(weights[:2]).view(2, 1) * sizes
        log_half = (regression[:, 2:] * regression.new_tensor(weights[2:]).view(2, 1)).clamp(max=coder.bbox_xform_clip)
        half = log_half.exp() * sizes / 2
        low, high = middle - half, middle + half
        scores = logits.softmax(1) if isinstance(model, SSD) else logits.sigmoid()
    low, high = low.clamp(0, size), high.clamp(0, size)
    rows = class_rows(model.categories)
    wanted = scores[:, rows[0] :] if rows == list(range(rows[0], scores.shape[1])) else scores[:, rows]
    return torch.cat([(low + high) / 2, high - low, wanted], 1)
