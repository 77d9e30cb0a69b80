"""What is run of an Ultralytics detector, with or without an adapter."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.detectors.ultralytics.checkpoint import as_outputs, quiet


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


def _is_folded(model: nn.Module) -> bool:
    """Whether batch normalization was folded where adapters fold it."""
    return any(isinstance(getattr(module, "bn", None), nn.Identity) for module in model.modules())
