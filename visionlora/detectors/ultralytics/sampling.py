"""Reproducible sampling: what the network sees depends on (seed, epoch, image) alone.

Ultralytics draws augmentations from generators that run on from batch to batch, in each worker process, so a resumed
run and another number of workers see other pictures. Here every sample is drawn from its own seed.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.mask import decode
from torch.utils.data import Sampler
from ultralytics.data.augment import Mosaic
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.data.converter import merge_multi_segment
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.ops import xywhr2xyxyxyxy

from visionlora.data import KeypointLayout, LabelledImage, Segmentation, read_labelled
from visionlora.detectors.ultralytics.hyperparameters import used_pictures
from visionlora.errors import VisionLoraError
from visionlora.tasks import Task


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and torch on the CPU from whole numbers that together name one draw.

    Not `torch.manual_seed`: where no GPU was used yet, as in a loader's process, it notes where it was called from for
    every kind of device and keeps that, which takes a fifth of a sample's time.
    """
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.default_generator.manual_seed(int(state[2]))


class SeededDataset(YOLODataset):
    """Ultralytics' augmentation of pictures and labels that were checked, each sample drawn from its own seed.

    Indexed by `epoch * len(self) + image`. Ultralytics finds the pictures, reads their labels (or a pickle that lies
    beside them), repairs files in place and keeps arrays beside them; none of that is done here. Mosaics draw their
    partners from the whole data set instead of from the images that a worker loaded last, because the latter depends
    on the worker's history.

    Args:
        images: the pictures with their labels; a crowd is no object to learn.
        task: what is labelled in them.
        names: of the classes.
        keypoints: of a pose data set.
        hyp: Ultralytics' settings; of `cache` those that keep pictures in memory.
        imgsz: longer side of a picture in pixels.
        batch: images of a batch.
        stride: of the detector.
        seed: of every sample, with its epoch and image.

    Raises:
        DataError: a picture that is kept in memory can no longer be read, or has another size than when it was checked.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        *,
        task: Task,
        names: Sequence[str],
        keypoints: KeypointLayout | None = None,
        hyp: IterableSimpleNamespace,
        imgsz: int,
        batch: int,
        stride: int = 32,
        seed: int = 0,
    ) -> None:
        self.images, self.seed, self._task = tuple(images), seed, task
        super().__init__(
            img_path="",
            imgsz=imgsz,
            batch_size=batch,
            augment=True,
            hyp=hyp,
            cache="ram" if keeps_in_memory(hyp.cache) else None,
            stride=stride,
            prefix="train: ",
            task=task.name,
            data={"names": dict(enumerate(names)), "channels": 3, **keypoint_entries(keypoints)},
            fraction=hyp.fraction,
        )
        if not len(self.im_files) == len(self.labels) == len(self.images):
            raise VisionLoraError(f"expected {len(self.images)} checked pictures to train on, got {len(self.labels)}")

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Return the paths of the pictures, of as many as Ultralytics' `fraction` says."""
        self.images = self.images[: used_pictures(len(self.images), self.fraction)]
        return [str(image.path) for image in self.images]

    def get_labels(self) -> list[dict]:
        """Return the checked labels as Ultralytics holds them."""
        return [training_label(image, self._task) for image in self.images]

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return picture `i`, its longer side resized to `imgsz`, and its height and width before and after."""
        if self.ims[i] is None:
            pixels: np.ndarray = read_labelled(self.images[i])
            height, width = pixels.shape[:2]
            scale = self.imgsz / max(height, width)
            if scale != 1:
                size_wh = min(math.ceil(width * scale), self.imgsz), min(math.ceil(height * scale), self.imgsz)
                pixels = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_LINEAR)
            if self.cache == "ram":
                return pixels, (height, width), pixels.shape[:2]
            self._remember(i, pixels, (height, width))
        return self.ims[i], self.im_hw0[i], self.im_hw[i]

    def _remember(self, i: int, pixels: np.ndarray, original: tuple[int, int]) -> None:
        """Keep a picture for the mosaics of the next few batches, and let go of the oldest one."""
        self.ims[i], self.im_hw0[i], self.im_hw[i] = pixels, original, pixels.shape[:2]
        self.buffer.append(i)
        if len(self.buffer) > max(self.max_buffer_length, 1):
            oldest = self.buffer.pop(0)
            self.ims[oldest] = self.im_hw0[oldest] = self.im_hw[oldest] = None

    def __getitem__(self, index: int) -> dict:
        """Return the augmented sample of image `index % len(self)` in epoch `index // len(self)`."""
        epoch, image = divmod(index, len(self))
        seed_everything(self.seed, epoch, image)
        return super().__getitem__(image)

    def build_transforms(self, hyp=None):
        """Build Ultralytics' augmentations, with mosaics over the whole data set."""
        transforms = super().build_transforms(hyp)
        _draw_from_whole_set(transforms)
        return transforms


def keeps_in_memory(cache: bool | str | None) -> bool:
    """Whether Ultralytics' `cache` setting keeps pictures in memory."""
    return str(cache).lower() in ("true", "ram")


def keypoint_entries(layout: KeypointLayout | None) -> dict[str, Any]:
    """Return what a data.yaml says of keypoints, as Ultralytics reads it."""
    if layout is None:
        return {}
    flip = [] if layout.flip is None else list(layout.flip)
    sigmas = {} if layout.sigmas is None else {"kpt_oks_sigmas": list(layout.sigmas)}
    return {"kpt_shape": [layout.count, layout.dims], "flip_idx": flip, **sigmas}


def training_label(image: LabelledImage, task: Task) -> dict[str, Any]:
    """Return the label of a picture as Ultralytics holds it for a task, in fractions of the picture.

    Boxes; for masks and oriented boxes an outline (P, 2) an object too, for poses keypoints (n, K, 3).
    """
    objects = ~image.is_crowd
    size = np.array(image.size_wh, dtype=np.float64)
    boxes = image.boxes_xyxy[objects].astype(np.float64) / np.tile(size, 2)
    outlines: list[NDArray[Any]] = []
    if task.name == "segment" and image.segments is not None:
        outlines = [_outline(image.segments[index]) for index in np.flatnonzero(objects)]
    elif task.name == "obb" and image.obb is not None:
        outlines = list(xywhr2xyxyxyxy(image.obb[objects]))
    outlines = [(outline / size).astype(np.float32) for outline in outlines]
    keypoints = None
    if task.name == "pose" and image.keypoints is not None:
        keypoints = (image.keypoints[objects] / [*size, 1]).astype(np.float32)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return {
        "im_file": str(image.path),
        "shape": image.size_wh[::-1],
        "cls": image.class_ids[objects].reshape(-1, 1).astype(np.float32),
        "bboxes": np.concatenate([centres, sizes], axis=1).astype(np.float32),
        "segments": outlines,
        "keypoints": keypoints,
        "normalized": True,
        "bbox_format": "xywh",
    }


def _outline(segment: Segmentation) -> NDArray[np.float64]:
    """Return one polygon (P, 2) in pixels for a mask; parts are joined by lines there and back, as Ultralytics does."""
    if isinstance(segment, dict):
        found, _ = cv2.findContours(decode(segment), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        polygons = tuple(contour.reshape(-1, 2).astype(np.float64) for contour in found if len(contour) > 2)
    else:
        polygons = segment
    if len(polygons) == 1:
        return polygons[0]
    return np.concatenate(merge_multi_segment([list(polygon.reshape(-1)) for polygon in polygons]))


def _draw_from_whole_set(transform) -> None:
    """Switch off the buffer of every mosaic, wherever it is nested."""
    if isinstance(transform, Mosaic):
        transform.buffer_enabled = False
    for inner in (*(getattr(transform, "transforms", None) or ()), getattr(transform, "pre_transform", None)):
        if inner is not None:
            _draw_from_whole_set(inner)


class EpochSampler(Sampler[int]):
    """Shuffled indices of one epoch after another, as `SeededDataset` expects them, split over DDP ranks.

    Counts the epochs itself, because the loader draws ahead of the trainer; `restart` sets the count.
    """

    def __init__(self, length: int, *, seed: int, rank: int = 0, ranks: int = 1, epoch: int = 0) -> None:
        self.length, self.seed, self.rank, self.ranks, self.epoch = length, seed, max(rank, 0), max(ranks, 1), epoch

    def __len__(self) -> int:
        """Return the samples of one epoch on one rank; the last are repeated from the start to share out evenly."""
        return -(-self.length // self.ranks)

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's indices of the next epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        order = np.resize(order, len(self) * self.ranks)[self.rank :: self.ranks]
        return iter((epoch * self.length + order).tolist())

    def restart(self, epoch: int) -> None:
        """Make `epoch` the next one."""
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: Ultralytics announces each epoch here under DDP, when its first batches are drawn already."""


def train_loader(
    dataset: SeededDataset, sampler: EpochSampler, *, batch: int, workers: int, pin_memory: bool
) -> InfiniteDataLoader:
    """Return Ultralytics' endless loader over seeded samples; `workers` processes at most."""
    batch = min(batch, len(sampler))
    batches = -(-len(sampler) // batch)
    workers = min((os.cpu_count() or 1) // sampler.ranks, workers, batches if batches > 1 else 0)
    return InfiniteDataLoader(
        dataset=dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        collate_fn=dataset.collate_fn,
    )
