"""What is run of an Ultralytics detector, with or without an adapter."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters.torch import Adapter
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.checkpoint import as_outputs, quiet
from visionlora.detectors.ultralytics.layout import adapted
from visionlora.errors import AdapterError, UsageError


class RawDetector(nn.Module):
    """A detector without its framework: images in, the raw prediction of its one-to-many head out.

    Input (n, 3, S, S) RGB in [0, 1]; output the raw prediction of its task: (n, rows, anchors), with segmentation
    (n, coefficients, S / 4, S / 4) beside it, always as a tuple. Batch
    normalization is folded; it is already where an adapter adds modules, which Ultralytics' own folding would lose.
    Suppression of overlapping boxes is left to the caller, for heads with an end-to-end branch too, as Ultralytics does
    by default.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        own = cast(DetectionModel, copy.deepcopy(model).float().eval())
        own.end2end = False
        with quiet():
            self.model = own if _is_folded(own) else own.fuse(verbose=False)
        self.model.model[-1].export = True
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the raw prediction for `images`."""
        return as_outputs(self.model(images))


def with_adapter(base: Base, adapter: Adapter) -> Base:
    """Return the base with the adapter's task, classes and weights in a copy of its model, and the modules it adds.

    Raises:
        AdapterError: the adapter belongs to another base, or its tensors do not fit.
    """
    adapter.card.check_base(base.fingerprint, str(base.path), family=base.family)
    base = replace(base, task=adapter.card.sized_task)
    try:
        detector = adapted(base, adapter.card.names, adapter.card.settings)
    except UsageError as error:
        raise AdapterError(f"the adapter's task and targets do not fit {base.path}: {error}") from error
    detector.finish(adapter.tensors)
    return replace(base, model=detector.model, names=adapter.card.names, card=None)


def _is_folded(model: nn.Module) -> bool:
    """Whether batch normalization was folded where adapters fold it."""
    return any(isinstance(getattr(module, "bn", None), nn.Identity) for module in model.modules())


def check_image_size(image_size: int, base: Base) -> None:
    """Refuse a side that the detector's strides do not divide.

    Raises:
        UsageError: `image_size` is no positive multiple of the largest stride.
    """
    stride = max(base.stride, 32)
    if image_size < stride or image_size % stride:
        below = max(image_size // stride, 1) * stride
        raise UsageError(f"--imgsz: expected a multiple of {stride}, got {image_size}; try {below} or {below + stride}")
