"""Rounding a frozen weight: what the formats promise, and the same bits from NumPy and torch."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch

from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.base_precision import NF4, PRECISIONS, is_rounded, rounded_weight
from visionlora.cards import preprocessing_card
from visionlora.errors import UsageError
from visionlora.tasks import DETECT

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPES = [(64, 64, 3, 3), (65, 97), (70, 61, 1, 1), (80, 64, 3), (16, 20, 2, 3, 5)]


def weight_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return normal weights whose outputs differ in range by up to a thousand, one of them zero."""
    generator = np.random.default_rng(seed)
    ranges = 10 ** generator.uniform(-3, 0, (shape[0], *(1 for _ in shape[1:])))
    ranges[1] = 0
    return (generator.normal(size=shape) * ranges).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_brings_back_the_bits_that_numpy_has(shape, name, device) -> None:
    packed = PRECISIONS[name].pack(weight_of(shape))
    tensors = {part: torch.from_numpy(array).to(device) for part, array in packed.items()}
    got = PRECISIONS[name].bring_back(tensors, shape).contiguous().cpu().numpy()
    assert got.tobytes() == PRECISIONS[name].weight(packed, shape).tobytes()


@pytest.mark.parametrize("name", PRECISIONS)
def test_order_in_memory_does_not_matter(name) -> None:
    weight = weight_of((64, 64, 3, 3))
    last = np.asarray(torch.from_numpy(weight).contiguous(memory_format=torch.channels_last))
    assert np.array_equal(rounded_weight(last, name), rounded_weight(weight, name))


def test_nf4_values_are_quantiles_of_a_normal_distribution() -> None:
    offset = (31 / 32 + 29 / 30) / 2  # of the two outer quantiles, so that the values go from -1 to 1
    upper = [NormalDist().inv_cdf(offset + (0.5 - offset) * i / 8) for i in range(8)]
    lower = [-NormalDist().inv_cdf(offset + (0.5 - offset) * i / 7) for i in range(7)]
    assert np.allclose(NF4.VALUES, np.array(sorted([*lower, 0, *upper])) / upper[0], atol=1e-6)


def test_nf4_takes_the_nearest_value_of_a_block() -> None:
    weight = weight_of((64, 128))
    scales = np.abs(weight).reshape(-1, 64).max(axis=1).astype(np.float64)
    scales = np.repeat(scales, 64).reshape(weight.shape)
    choices = scales[..., None] * NF4.VALUES.astype(np.float64)
    best = np.abs(choices - weight[..., None]).min(axis=-1)
    # Scales are in 256 steps from the least to the greatest of their group: off by half a step at most.
    allowed = best + (scales.max() - scales.min()) / 510 * 1.001
    assert (np.abs(rounded_weight(weight, "nf4") - weight) <= allowed).all()


def test_nf4_misses_normal_weights_by_a_tenth_and_int8_by_a_hundredth() -> None:
    weight = np.random.default_rng(0).normal(size=(256, 128, 3, 3)).astype(np.float32)
    missed = {name: float(np.linalg.norm(rounded_weight(weight, name) - weight)) for name in PRECISIONS}
    relative = {name: error / float(np.linalg.norm(weight)) for name, error in missed.items()}
    assert relative["nf4"] == pytest.approx(0.092, abs=0.002)  # bitsandbytes 0.50 with double quantization: 0.0919
    assert relative["int8"] < 0.012 and relative["fp16"] < 0.0003


@pytest.mark.parametrize("name", PRECISIONS)
def test_weights_next_to_nothing_keep_their_sign(name) -> None:
    """Their scale is a number without all its bits: a level may be beyond the last one."""
    weight = np.full((64, 64), 2e-43, dtype=np.float32)
    assert (rounded_weight(weight, name) >= 0).all() and (rounded_weight(-weight, name) <= 0).all()


@pytest.mark.parametrize("name", PRECISIONS)
def test_weights_that_are_all_alike_stay_so(name) -> None:
    for value in (0.0, 0.25, -3e-30):
        weight = np.full((64, 64), value, dtype=np.float32)
        expected = 0.0 if name == "fp16" and abs(value) < 1e-8 else value
        assert np.allclose(rounded_weight(weight, name), expected, rtol=1e-5, atol=0)


def test_bits_of_a_weight_are_those_of_the_papers() -> None:
    weight = weight_of((256, 256, 3, 3))
    bits = {
        name: 8 * sum(array.nbytes for part, array in precision.pack(weight).items() if part != "values") / weight.size
        for name, precision in PRECISIONS.items()
    }
    assert bits["nf4"] == 4 + 8 / 64 + 64 / (64 * 256)
    assert 8 < bits["int8"] < 8.02 and bits["fp16"] == 16


def test_small_and_depthwise_layers_stay_float32() -> None:
    shapes = {(32, 3, 3, 3): False, (768, 1, 3, 3): False, (64, 64): True, (63, 65): False}
    assert {shape: is_rounded(shape, "nf4") for shape in shapes} == shapes
    weight = weight_of((32, 3, 3, 3))
    assert rounded_weight(weight, "nf4") is weight and rounded_weight(weight, "float32") is weight


def test_card_names_the_precision_of_the_base_unless_it_is_float32() -> None:
    for settings in (AdapterSettings(), AdapterSettings(base_precision="nf4")):
        card = AdapterCard(settings, ("a",), {"fingerprint": "0"}, preprocessing_card(96), DETECT.name)
        assert AdapterCard.from_json(card.to_json()) == card
        assert ("base_precision" in card.to_json()) == (settings.base_precision == "nf4")


def test_unknown_precision_is_refused_with_those_there_are() -> None:
    for wrong in ("fp4", "", None, 4, "x" * 99):
        with pytest.raises(UsageError, match="--base-precision: expected float32, fp16, int8, nf4, got"):
            AdapterSettings(base_precision=wrong)  # type: ignore[arg-type]
