"""Training pictures of torchvision's detectors: augmented by its transforms, letterboxed as the device sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from visionlora.data import LabelledImage, read_labelled
from visionlora.vision.preprocess import PADDING, letterbox_pixels

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""An image (3, S, S) uint8 RGB; its `boxes` (n, 4) xyxy in pixels and `labels` (n,), from 1: 0 is the background."""
_LEAST = 1.0  # pixels of a side below which nothing is left of an object


class TrainingPictures(Dataset[Sample]):
    """Checked pictures with their boxes, each drawn from its own seed: what is seen depends on (seed, epoch, picture).

    Indexed by `epoch * len(self) + picture`.

    Args:
        images: the pictures with their labels; a crowd is no object to learn.
        size: side of the square in pixels.
        chosen: the hyperparameters, of which those of the augmentation count.
        seed: of every sample, with its epoch and picture.
    """

    def __init__(self, images: Sequence[LabelledImage], size: int, chosen: Mapping[str, Any], *, seed: int) -> None:
        self.images, self.size, self.seed = tuple(images), size, seed
        fill = {tv_tensors.Image: PADDING, "others": 0}
        self._transform = v2.Compose(
            [
                v2.RandomPhotometricDistort(p=chosen["photometric"]),
                v2.RandomZoomOut(fill=fill, side_range=(1.0, 2.0), p=chosen["zoom_out"]),
                v2.RandomApply([v2.RandomIoUCrop()], p=chosen["iou_crop"]),
                v2.RandomHorizontalFlip(p=chosen["fliplr"]),
                v2.SanitizeBoundingBoxes(min_size=_LEAST),
            ]
        )

    def __len__(self) -> int:
        """Return how many pictures an epoch has."""
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of a picture in an epoch.

        Raises:
            DataError: the picture can no longer be read, or has another size than when it was checked.
        """
        epoch, number = divmod(index, len(self))
        image = self.images[number]
        pixels, objects = read_labelled(image), ~image.is_crowd
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(image.boxes_xyxy[objects]), format="XYXY", canvas_size=pixels.shape[:2]
        )
        target = {"boxes": boxes, "labels": torch.from_numpy(image.class_ids[objects] + 1)}
        picture = tv_tensors.Image(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)))  # BGR -> RGB
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)
            torch.default_generator.manual_seed(int(state[0]))
            picture, target = self._transform(picture, target)
        square, placement = letterbox_pixels(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()), self.size)
        placed = target["boxes"].as_subclass(torch.Tensor) * torch.tensor(placement.scale_xy * 2)
        placed = placed + torch.tensor(placement.offset_xy * 2)
        left = (placed[:, 2:] > placed[:, :2]).all(1)  # torchvision refuses a box without area
        return torch.from_numpy(square).permute(2, 0, 1), {
            "boxes": placed[left].float(),
            "labels": target["labels"][left].long(),
        }

    def batches(self, epoch: int, *, batch: int, workers: int, pin_memory: bool) -> DataLoader[Any]:
        """Return the batches of an epoch, in an order of its own: lists of images and of targets.

        Args:
            epoch: from 0.
            batch: pictures a step; the last one may have fewer.
            workers: processes at most.
            pin_memory: for a GPU.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        steps = -(-len(self) // batch)
        return DataLoader(
            self,
            batch_size=batch,
            sampler=(epoch * len(self) + order).tolist(),
            num_workers=min(os.cpu_count() or 1, workers, steps if steps > 1 else 0),
            collate_fn=_unzipped,
            pin_memory=pin_memory,
        )


def _unzipped(samples: Sequence[Sample]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def squares(images: Sequence[LabelledImage], size: int, batch: int) -> Iterator[tuple[torch.Tensor, list[Any]]]:
    """Yield the pictures as `visionlora eval` shows them: (n, 3, S, S) uint8 RGB, and where each lies in its square."""
    for start in range(0, len(images), batch):
        placed = [letterbox_pixels(read_labelled(image), size) for image in images[start : start + batch]]
        pixels = np.stack([square[..., ::-1].transpose(2, 0, 1) for square, _ in placed])
        yield torch.from_numpy(np.ascontiguousarray(pixels)), [placement for _, placement in placed]
