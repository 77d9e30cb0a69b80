"""The bias of a convolution: the same values, and the gradient that float64 arithmetic gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from visionlora.detectors.ultralytics.bias import AddBias, FastBias

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def added(output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    pixels = output.numel() // output.shape[1]
    return AddBias.apply(output.clone(memory_format=torch.preserve_format), bias, output.new_ones(1, pixels))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "planes"])
def test_gradients_are_those_of_finite_differences(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).to(memory_format=layout)
    bias = torch.randn(3, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(added, (output.requires_grad_(), bias.requires_grad_()))


def test_gradient_of_a_part_of_the_channels() -> None:
    whole = torch.randn(2, 8, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    added(torch.zeros(2, 4, 4, 4, dtype=torch.float64), bias).backward(whole[:, 2:6])
    torch.testing.assert_close(bias.grad, whole[:, 2:6].sum((0, 2, 3)))


def test_convolutions_on_the_cpu_are_left_alone() -> None:
    x, weight, bias = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.randn(3, requires_grad=True)
    with FastBias():
        output = functional.conv2d(x, weight, bias)
    assert "Convolution" in type(output.grad_fn).__name__


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_convolutions_on_a_gpu_keep_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 40, 40, generator=generator).cuda().to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(16, 8, 3, 3, generator=generator).cuda().to(dtype)
    results = []
    for mode in (torch.enable_grad(), FastBias()):
        bias = torch.zeros(16, device="cuda", requires_grad=True)
        with mode:
            output = functional.conv2d(x, weight, bias.to(dtype), padding=1)
        (output.float() ** 2).sum().backward()
        results.append((output.detach().float(), bias.grad.clone()))
    for usual, ours in zip(*results, strict=True):
        assert (ours - usual).norm() <= tolerance * usual.norm()
