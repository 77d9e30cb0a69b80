"""What steps are measured on: the boxes of a data set, as training shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from visionlora.data import LabelledImage
from visionlora.detectors.family import StepSample

_MOSAIC = 4  # pictures in one training image
_PICTURES = 256  # whose boxes are taken


def step_sample(
    names: tuple[str, ...], images: Sequence[LabelledImage], *, batch: int, image_size: int, device: torch.device
) -> StepSample:
    """Return the sample for the training pictures of a data set with classes `names`; the rest as in `StepSample`."""
    most = max((len(image.class_ids) for image in images), default=0)
    return StepSample(names, _objects(images), batch, image_size, device, most_objects=most)


def _objects(images: Sequence[LabelledImage]) -> list[np.ndarray]:
    """Return the objects of mosaics of four training images each: class, then centre and size as fractions."""
    rows = []
    for image in images[:_PICTURES]:
        width, height = image.size_wh
        left, top, right, bottom = (image.boxes_xyxy / np.array([width, height, width, height])).T
        columns = (image.class_ids, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        rows.append(np.stack(columns, 1))
    return [np.concatenate(rows[i : i + _MOSAIC]) for i in range(0, len(rows), _MOSAIC)]
