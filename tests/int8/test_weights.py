"""Weights in int8 and biases in int32 stay what they were."""

from __future__ import annotations

import numpy as np
import pytest

from tests.quantization.graphs import random_conv
from visionlora.errors import QuantizationError
from visionlora.int8.weights import quantize_conv


@pytest.mark.parametrize("most", [127, 63])
def test_every_weight_is_within_half_a_step_of_its_channel(most):
    weight, bias = random_conv(np.random.default_rng(0), 8, 5, 3)
    weight *= 10.0 ** np.arange(-4, 4).reshape(-1, 1, 1, 1).astype(np.float32)  # channels of very different size

    made = quantize_conv(weight, bias, np.float32(0.02), most=most)

    step = made.scale.reshape(-1, 1, 1, 1)
    assert made.weight.dtype == np.int8 and made.weight.min() >= -most
    assert np.all(np.abs(made.weight).reshape(8, -1).max(axis=1) == most)
    assert np.all(np.abs(made.weight * step - weight) <= 0.5001 * step)
    np.testing.assert_allclose(made.bias * made.bias_scale, bias, atol=0.5001 * made.bias_scale.max())
    np.testing.assert_allclose(made.bias_scale, made.scale * np.float32(0.02), rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 0.7, -4e3])
def test_a_channel_of_tiny_weights_keeps_its_bias(size, offset):
    weight = np.full((1, 2, 3, 3), size, dtype=np.float32)

    made = quantize_conv(weight, np.float32([offset]), np.float32(0.05))

    assert np.isfinite(made.scale).all() and made.scale[0] > 0
    assert abs(int(made.bias[0])) <= 2**30
    assert made.bias[0] * float(made.bias_scale[0]) == pytest.approx(offset, rel=1e-6)


def test_a_convolution_without_bias_gets_none():
    assert quantize_conv(np.ones((1, 1, 1, 1), dtype=np.float32), None, np.float32(1)).bias is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_weights_that_are_no_numbers_are_refused(value, where):
    constants = {"weight": np.ones((2, 1, 1, 1), np.float32), "bias": np.ones(2, np.float32)}
    constants[where].flat[1] = value
    with pytest.raises(QuantizationError, match="finite"):
        quantize_conv(constants["weight"], constants["bias"], np.float32(0.1))
