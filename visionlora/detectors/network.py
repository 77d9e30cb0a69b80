"""A checkpoint as a Network: the same call as an exported file's."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from visionlora.adapters.torch import load_adapter
from visionlora.detectors.device import check_device
from visionlora.detectors.family import Family
from visionlora.errors import UsageError
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
