"""Weights rounded together are those that the file keeps, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionlora.fake_quant import LayerConstants
from visionlora.int8.weights import quantize_conv

MIXED = (9, None, 8, 16)
"""Weights that share a multiplier in each layer; the second layer is int8."""


def made() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Weights, biases and input scales of four convolutions, with a dead channel and a huge bias among them."""
    random = torch.Generator().manual_seed(0)
    shapes = [(8, 3, 3, 3), (16, 1, 5, 5), (4, 8, 1, 1), (6, 16, 3, 3)]
    weights = [torch.randn(shape, generator=random) for shape in shapes]
    weights[1] = weights[1].to(memory_format=torch.channels_last)
    weights[3] = weights[3].to(memory_format=torch.channels_last)
    biases = [torch.randn(len(weight), generator=random) for weight in weights]
    weights[0][2], biases[0][2], biases[2][1] = 0, 0, 1e9
    weights[3][:, 4:] *= 0.02  # groups far below the largest weight of their channel
    weights[3][1, 8:] = 0
    return weights, biases, [torch.tensor(value) for value in (1 / 255, 0.013, 0.5, 2e-4)]


@pytest.mark.parametrize("int4", [(None,) * 4, MIXED], ids=["int8", "int4"])
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
)
def test_rounded_constants_are_those_of_the_file(int4, device) -> None:
    weights, biases, scales = made()
    constants = LayerConstants([weight.to(device) for weight in weights], int4)
    there = [[one.to(device) for one in group] for group in (weights, biases, scales)]
    got_weights, got_biases = constants.rounded(*there, torch.float32)
    for index, weight in enumerate(weights):
        expected = quantize_conv(weight.numpy(), biases[index].numpy(), np.float32(scales[index]), int4[index])
        by_channel = expected.scale.reshape(-1, *[1] * (weight.dim() - 1))
        assert np.array_equal(got_weights[index].cpu().numpy(), expected.weight.astype(np.float32) * by_channel)
        assert np.array_equal(got_biases[index].cpu().numpy(), expected.bias.astype(np.float32) * expected.bias_scale)


@pytest.mark.parametrize("int4", [(None,) * 4, MIXED], ids=["int8", "int4"])
def test_gradients_pass_through(int4) -> None:
    weights, biases, scales = made()
    for tensor in (*weights, *biases):
        tensor.requires_grad_()
    constants = LayerConstants(weights, int4)
    got_weights, got_biases = constants.rounded(weights, biases, scales, torch.float16)
    sum((3 * one.float()).sum() for one in (*got_weights, *got_biases)).backward()
    assert all(bool((tensor.grad == 3).all()) for tensor in (*weights, *biases))
