"""LoRA's own arithmetic and settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionlora.adapters import low_rank_delta
from visionlora.adapters.methods import LoRA
from visionlora.errors import UsageError

SHAPES = [(12, 6, 3, 3), (8, 1, 3, 3), (12, 6, 1, 1), (6, 5, 5, 1), (18, 20)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "--rank: expected"),
        ({"rank": 2.5}, "--rank: expected"),
        ({"alpha": 0.0}, "--alpha: expected"),
        ({"alpha": float("nan")}, "--alpha: expected"),
        ({"alpha": "4"}, "--alpha: expected"),
        ({"full": -1}, "full: expected"),
        ({"full": 2.0}, "full: expected"),
    ],
    ids=["rank 0", "rank fraction", "alpha 0", "alpha nan", "alpha text", "full below 0", "full fraction"],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        LoRA(**settings)


@pytest.mark.parametrize("shape", [*SHAPES, (64, 1, 3, 3), (2, 3)])
def test_the_factors_never_hold_more_numbers_than_the_weight(shape) -> None:
    shapes = LoRA(rank=16).shapes(shape)
    rank = shapes["lora_A"][0]
    assert rank == 1 or sum(map(np.prod, shapes.values())) <= np.prod(shape)


@pytest.mark.parametrize("full", [0, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_of_a_weight_follows_from_its_tensors(shape, full) -> None:
    tensors = {name: np.zeros(own) for name, own in LoRA(full=full).shapes(shape).items()}
    assert LoRA(full=full).weight_shape(tensors) == shape
    assert set(tensors) == ({"delta"} if full else {"lora_A", "lora_B"})


def test_layers_up_to_a_size_are_at_full_rank() -> None:
    method = LoRA(rank=2, full=72)
    assert method.shapes((8, 1, 3, 3)) == {"delta": (8, 1, 3, 3)} and "lora_A" in method.shapes((8, 10))
    assert "72 weights at full rank" in method.words


def in_training(array: np.ndarray, form: torch.memory_format) -> torch.Tensor:
    """Return a tensor of the file as training has it."""
    tensor = torch.from_numpy(array)
    if all(side == 1 for side in tensor.shape[2:]):
        return tensor.reshape(tensor.shape[:2])
    return tensor.to(memory_format=form)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("full", [0, 1 << 20])
def test_the_weight_in_training_is_the_merged_one(shape, channels_last, full) -> None:
    method, generator = LoRA(rank=3, alpha=2.0, full=full), np.random.default_rng(0)
    arrays = {name: generator.normal(size=own).astype(np.float32) for name, own in method.shapes(shape).items()}
    weight = generator.normal(size=shape).astype(np.float32)
    form = torch.channels_last if channels_last else torch.contiguous_format
    tensors = {name: in_training(array, form) for name, array in arrays.items()}
    own = torch.from_numpy(weight)
    own = own.to(memory_format=form) if own.dim() == 4 else own
    merged = method.merged(weight, arrays)
    np.testing.assert_allclose(method.adapted(own, tensors, None).numpy(), merged, atol=1e-5)
    if full:
        assert np.array_equal(merged, weight + arrays["delta"])
        return
    delta = low_rank_delta(arrays["lora_B"], arrays["lora_A"], method.scale(len(arrays["lora_A"])))
    assert np.array_equal(merged, weight + delta.reshape(shape))
