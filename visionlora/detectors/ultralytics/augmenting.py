"""Training pictures of classifiers, augmented as Ultralytics augments them, each sample drawn from its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import Dataset, default_collate
from ultralytics.data.augment import classify_augmentations
from ultralytics.utils import IterableSimpleNamespace

from visionlora.data import LabelledImage, read_labelled
from visionlora.detectors.ultralytics.hyperparameters import used_pictures
from visionlora.detectors.ultralytics.sampling import seed_everything


class ClassifiedDataset(Dataset):
    """Checked pictures with their classes; Ultralytics' own data set looks for folders and leaves caches there.

    Indexed by `epoch * len(self) + image`, as `EpochSampler` does. A sample holds `img` (3, S, S) in [0, 1] and `cls`.

    Args:
        images: the pictures, each with its class.
        hyp: Ultralytics' settings.
        seed: of every sample, with its epoch and image.
    """

    collate_fn = staticmethod(default_collate)

    def __init__(self, images: Sequence[LabelledImage], *, hyp: IterableSimpleNamespace, seed: int = 0) -> None:
        self.images, self.seed = tuple(images)[: used_pictures(len(images), hyp.fraction)], seed
        self.labels = [{"cls": image.class_ids} for image in self.images]  # where Ultralytics looks for them
        self._transforms = classify_augmentations(
            size=hyp.imgsz,
            scale=(1.0 - hyp.scale, 1.0),
            hflip=hyp.fliplr,
            vflip=hyp.flipud,
            erasing=hyp.erasing,
            auto_augment=hyp.auto_augment,
            hsv_h=hyp.hsv_h,
            hsv_s=hyp.hsv_s,
            hsv_v=hyp.hsv_v,
        )

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the augmented sample of image `index % len(self)` in epoch `index // len(self)`."""
        epoch, number = divmod(index, len(self))
        seed_everything(self.seed, epoch, number)
        image = self.images[number]
        pixels = np.asarray(cv2.cvtColor(read_labelled(image), cv2.COLOR_BGR2RGB))
        return {"img": self._transforms(Image.fromarray(pixels)), "cls": int(image.class_ids[0])}
