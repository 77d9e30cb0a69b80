"""Reproducible sampling: what the network sees depends on (seed, epoch, image) alone.

Ultralytics draws augmentations from generators that run on from batch to batch, in each worker process, so a resumed
run and another number of workers see other pictures. Here every sample is drawn from its own seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler
from ultralytics.data.augment import Mosaic
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.data.dataset import YOLODataset


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
    """A YOLODataset indexed by `epoch * len(self) + image`, each sample drawn from its own seed.

    Mosaics draw their partners from the whole data set instead of from the images that a worker loaded last, because
    the latter depends on the worker's history.
    """

    seed = 0

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
