"""A torch detector as a Network: the same call as an exported file's."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters.torch import Adapter, load_adapter
from visionlora.detectors.device import check_device
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.checkpoint import as_outputs, load_base, quiet
from visionlora.detectors.ultralytics.layout import adapted
from visionlora.errors import AdapterError, UsageError
from visionlora.tasks import RawPrediction


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


class TorchNetwork:
    """An Ultralytics checkpoint, with or without an adapter, that `visionlora.vision.inference.detect` runs.

    Args:
        path: the checkpoint.
        adapter: path of an adapter that belongs to it.
        image_size: side of the network's square input in pixels; the adapter's or checkpoint's own if None.
        device: `cpu`, or the number of a GPU.

    Raises:
        ModelError: the checkpoint cannot be used.
        AdapterError: the adapter cannot be read, or belongs to another base.
        UsageError: there is no such device, it is more than one, or the image size does not fit the model.
    """

    nms = True
    batch: int | None = None
    cut: float | None = None
    precision: str | None = "f32"

    def __init__(
        self,
        path: Path | str,
        *,
        adapter: Path | str | None = None,
        image_size: int | None = None,
        device: str = "cpu",
    ) -> None:
        if "," in device:
            raise UsageError(f"--device {device}: one GPU runs a detector; give one number, such as 0")
        self.path = Path(path) if adapter is None else Path(adapter)
        base = self._base = load_base(path)
        own_size = base.image_size
        if adapter is not None:
            loaded = load_adapter(adapter)
            own_size = int(loaded.card.preprocessing["image_size"])
            base = with_adapter(base, loaded)
        self.image_size = own_size if image_size is None else image_size
        check_image_size(self.image_size, base)
        self.task, self.names = base.task, base.names
        self.metadata = base.card  # what a merged checkpoint says about itself
        device = check_device(device)
        self.device = torch.device(f"cuda:{device}" if device.isdigit() else device)
        self.detector = RawDetector(base.model).to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> RawPrediction:
        """Return the raw prediction of its task for a batch (n, 3, S, S) float32 in [0, 1]."""
        outputs = self.detector(torch.from_numpy(batch).to(self.device))
        return tuple(output.float().cpu().numpy() for output in outputs)

    def adapter_off(self) -> TorchNetwork:
        """Return the detector without its adapter, from the base's weights that this one was made from."""
        off = copy.copy(self)
        off.task, off.names, off.metadata = self._base.task, self._base.names, self._base.card
        off.detector = RawDetector(self._base.model).to(self.device)
        return off


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
