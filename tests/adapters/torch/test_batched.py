"""Weights computed together are those that each layer computes for itself, and so are their gradients."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import IA3, BitFit, DoRA, LoHa, LoRA
from visionlora.adapters.torch import BatchedWeights, attach, plan_adapter


class Mixed(nn.Module):
    """Every kind of layer that carries an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.bn.running_var.uniform_(0.5, 2.0)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.depthwise(torch.relu(self.bn(self.conv(x)))))
        x = x.flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0])


def trained_model(*, channels_last: bool, full: int = 0) -> nn.Module:
    torch.manual_seed(0)
    model = Mixed().eval()
    attach(model, plan_adapter(model, AdapterSettings(LoRA(rank=2, full=full)), norms={"conv": "bn"}))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model.to(memory_format=torch.channels_last) if channels_last else model


@pytest.mark.parametrize(
    "method", [LoRA(rank=2), DoRA(rank=2), LoHa(rank=2), IA3(), BitFit()], ids=lambda each: each.name
)
def test_what_is_computed_twice_is_computed_anew(method) -> None:
    """As in the passes before the capture of a CUDA graph, which must not hold what those computed."""
    model = Mixed().eval()
    attach(model, plan_adapter(model, AdapterSettings(method), norms={"conv": "bn"}))
    weights = BatchedWeights(model)
    for factor in (1, 2):
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.mul_(factor)
        weights.compute()
    x = torch.randn(1, 3, 6, 6)
    together = model(x)
    weights.clear()
    torch.testing.assert_close(together, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 0.06)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("full", [0, 100, 1 << 20], ids=["by factors", "mixed", "at full rank"])
def test_output_and_gradients_equal_those_of_single_layers(full, channels_last, half, tolerance) -> None:
    model = trained_model(channels_last=channels_last, full=full)
    x = torch.randn(2, 3, 6, 6)
    results = []
    for context in (contextlib.nullcontext(), BatchedWeights(model).computed()):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), context:
            y = model(x).float()
        y.square().sum().backward()
        results.append((y, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])))
    for expected, got in zip(*results, strict=True):
        assert (got - expected).norm() < tolerance * expected.norm()


def test_weights_follow_the_parameters_afterwards() -> None:
    model = trained_model(channels_last=False)
    together = BatchedWeights(model)
    x = torch.randn(1, 3, 6, 6)
    with together.computed():
        before = model(x)
    twin = copy.deepcopy(model)  # holds nothing of what was computed
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    alone = model(x)
    with together.computed():
        after = model(x)
    torch.testing.assert_close(after, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(twin(x), before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)


def test_rounding_to_half_keeps_the_trained_tensors_whole() -> None:
    model = trained_model(channels_last=False)
    with torch.autocast("cpu", dtype=torch.bfloat16), BatchedWeights(model).computed():
        assert model.conv.weight.dtype == model.conv.bias.dtype == torch.bfloat16
    assert model.conv.weight.dtype == model.conv.bias.dtype == torch.float32
