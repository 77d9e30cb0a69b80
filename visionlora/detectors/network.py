"""A checkpoint as a Network: the same call as an exported file's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from visionlora.adapters.torch import Adapter, load_adapter
from visionlora.detectors.device import check_device
from visionlora.detectors.family import AdaptedDetector, Base, Family
from visionlora.errors import AdapterError, UsageError
from visionlora.tasks import RawPrediction


class CheckpointNetwork:
    """A checkpoint, with or without an adapter, that `visionlora.vision.inference.detect` runs.

    Args:
        family: of the checkpoint.
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
        family: Family,
        path: Path | str,
        *,
        adapter: Path | str | None = None,
        image_size: int | None = None,
        device: str = "cpu",
    ) -> None:
        if "," in device:
            raise UsageError(f"--device {device}: one GPU runs a detector; give one number, such as 0")
        self._family, self.path = family, Path(path) if adapter is None else Path(adapter)
        base = self._base = family.load(path)
        own_size = base.image_size
        if adapter is not None:
            loaded = load_adapter(adapter)
            own_size = int(loaded.card.preprocessing["image_size"])
            base = family.with_adapter(base, loaded)
        self.image_size = own_size if image_size is None else image_size
        family.check_image_size(self.image_size, base)
        self.task, self.names = base.task, base.names
        self.metadata = base.card  # what a merged checkpoint says about itself
        device = check_device(device)
        self.device = torch.device(f"cuda:{device}" if device.isdigit() else device)
        self.detector = family.raw_detector(base.model).to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> RawPrediction:
        """Return the raw prediction of its task for a batch (n, 3, S, S) float32 in [0, 1]."""
        outputs = self.detector(torch.from_numpy(batch).to(self.device))
        return tuple(output.float().cpu().numpy() for output in outputs)

    def adapter_off(self) -> CheckpointNetwork:
        """Return the detector without its adapter, from the base's weights that this one was made from."""
        off = copy.copy(self)
        off.task, off.names, off.metadata = self._base.task, self._base.names, self._base.card
        off.detector = self._family.raw_detector(self._base.model).to(self.device)
        return off


def with_adapter(adapted: Callable[..., AdaptedDetector], base: Base, adapter: Adapter) -> Base:
    """Return the base with the adapter's task, classes and weights in a copy of its model, and the modules it adds.

    Args:
        adapted: of the base's family (see `Family`).
        base: the checkpoint.
        adapter: one that belongs to it.

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


def check_image_size(image_size: int, base: Base) -> None:
    """Refuse a side that the detector's strides do not divide.

    Raises:
        UsageError: `image_size` is no positive multiple of the largest stride.
    """
    stride = max(base.stride, 32)
    if image_size < stride or image_size % stride:
        below = max(image_size // stride, 1) * stride
        raise UsageError(f"--imgsz: expected a multiple of {stride}, got {image_size}; try {below} or {below + stride}")
