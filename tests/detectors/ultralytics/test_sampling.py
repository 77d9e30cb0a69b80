"""Reproducible sampling: a sample depends on seed, epoch and image alone."""

from __future__ import annotations

import pytest
from torch.utils.data import BatchSampler

from visionlora.detectors.ultralytics.hyperparameters import smallest_batch
from visionlora.detectors.ultralytics.sampling import EpochSampler


def test_every_epoch_shows_every_image_once_in_another_order() -> None:
    sampler = EpochSampler(10, seed=3)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == list(range(10)) and sorted(second) == list(range(10, 20))
    assert [index - 10 for index in second] != first


def test_restart_repeats_an_epoch_exactly() -> None:
    sampler = EpochSampler(10, seed=3)
    epochs = [list(sampler) for _ in range(3)]
    sampler.restart(1)
    assert list(sampler) == epochs[1]


def test_ranks_share_the_images_of_an_epoch_evenly() -> None:
    shares = [list(EpochSampler(11, seed=0, rank=rank, ranks=3)) for rank in range(3)]
    assert {len(share) for share in shares} == {4}
    assert set().union(*shares) == set(range(11))


def test_announcing_an_epoch_does_not_disturb_the_count() -> None:
    sampler = EpochSampler(4, seed=0)
    list(sampler)
    sampler.set_epoch(0)
    assert min(sampler) >= 4


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_smallest_batch_is_known_before(ranks) -> None:
    for length in range(1, 20):
        for each in range(1, 8):
            batches = BatchSampler(EpochSampler(length, seed=0, ranks=ranks), each, drop_last=False)
            assert min(map(len, batches)) == smallest_batch(length, each * ranks, ranks)
