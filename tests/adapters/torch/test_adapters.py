"""The arithmetic of adapters on small modules: zero start, merge, freeze, save."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import (
    adaptable_layers,
    adapter_tensors,
    attach,
    load_adapter_tensors,
    merge,
    plan_adapter,
)
from visionlora.errors import AdapterError, UsageError

CONVS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": 2, "padding_mode": "circular"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8},
    "rectangular": {"kernel_size": (1, 5), "padding": (0, 2)},
    "no bias": {"kernel_size": 3, "bias": False},
}


class Block(nn.Module):
    """A convolution with batch normalization behind it."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, **options)
        self.bn = nn.BatchNorm2d(8)
        for tensor in (self.bn.weight.data, self.bn.running_var):
            tensor.uniform_(0.5, 2.0)
        for tensor in (self.bn.bias.data, self.bn.running_mean):
            tensor.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


def fill(model: nn.Module) -> None:
    """Give every trainable tensor a random value, as if it had been trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


def adapted_pair(model: nn.Module, *, norms=None, **settings) -> tuple[nn.Module, nn.Module]:
    """Return the model trained at random under an adapter, and the base merged with that adapter."""
    plan = plan_adapter(model, AdapterSettings(LoRA(rank=3), **settings), norms=norms)
    trained, merged = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    attach(trained, plan)
    fill(trained)
    merge(merged, plan, adapter_tensors(trained, plan))
    return trained, merged


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize("train_bias", [True, False], ids=["bias", "no bias trained"])
def test_merged_convolution_equals_the_adapted_one(options, train_bias) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, **options))
    trained, merged = adapted_pair(model, train_bias=train_bias)
    x = torch.randn(2, 8, 12, 12)
    assert not torch.allclose(trained(x), model(x), atol=1e-2)
    torch.testing.assert_close(merged(x), trained(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_merged_block_with_batch_normalization_equals_the_adapted_one(options) -> None:
    model = nn.Sequential(Block(**options)).eval()
    trained, merged = adapted_pair(model, norms={"0.conv": "0.bn"})
    x = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(merged(x), trained(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_memory_format_changes_no_adapted_weight(options) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, **options))
    plan = plan_adapter(model, AdapterSettings(LoRA(rank=2)))
    attach(model, plan)
    fill(model)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(twin[0].weight, model[0].weight, atol=1e-6, rtol=1e-6)
    assert twin[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in adapter_tensors(twin, plan).items():
        assert torch.equal(tensor, adapter_tensors(model, plan)[name]) and tensor.is_contiguous(), name


def test_merge_keeps_batch_normalization_statistics_byte_for_byte() -> None:
    model = nn.Sequential(Block(kernel_size=3)).eval()
    _, merged = adapted_pair(model, norms={"0.conv": "0.bn"})
    for name in ("weight", "running_mean", "running_var"):
        assert torch.equal(getattr(merged[0].bn, name), getattr(model[0].bn, name))


def test_merged_linear_and_packed_attention_equal_the_adapted_ones() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0])

    trained, merged = adapted_pair(Model())
    x = torch.randn(3, 6, 8)
    assert {"attention.in_proj.lora_A.weight"} <= set(adapted_names(Model()))
    torch.testing.assert_close(merged(x), trained(x), atol=1e-5, rtol=1e-5)


def adapted_names(model: nn.Module) -> list[str]:
    plan = plan_adapter(model, AdapterSettings(LoRA(rank=2)))
    attach(model, plan)
    return list(adapter_tensors(model, plan))


def test_attaching_changes_no_output_before_training() -> None:
    model = nn.Sequential(Block(kernel_size=3), Block(kernel_size=1)).eval()
    plan = plan_adapter(model, AdapterSettings(), norms={"0.conv": "0.bn", "1.conv": "1.bn"})
    adapted = copy.deepcopy(model)
    attach(adapted, plan)
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(adapted(x), model(x), atol=1e-5, rtol=1e-5)


def test_training_changes_no_frozen_tensor() -> None:
    model = nn.Sequential(Block(kernel_size=3), nn.Flatten(), nn.Linear(8 * 49, 2))
    plan = plan_adapter(model, AdapterSettings(targets="0.*"), norms={"0.conv": "0.bn"})
    attach(model, plan)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        model(torch.randn(4, 8, 9, 9)).square().mean().backward()
        optimizer.step()
    assert before.keys() == dict(model.named_buffers()).keys() and len(before) > 3
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_gradients_equal_a_float64_reference() -> None:
    model = nn.Sequential(Block(kernel_size=3, padding=1)).eval()
    plan = plan_adapter(model, AdapterSettings(LoRA(rank=2, alpha=3.0)), norms={"0.conv": "0.bn"})
    base = copy.deepcopy(model).double()
    attach(model, plan)
    fill(model)
    x = torch.randn(2, 8, 7, 7)
    model(x).square().sum().backward()
    low_rank = model[0].conv.parametrizations.weight[0]
    a, b = (tensor.detach().double().requires_grad_() for tensor in (low_rank.lora_A, low_rank.lora_B))
    delta = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    weight = base[0].conv.weight.detach() + 3.0 / 2**0.5 * (b @ a.flatten(1)).view(8, 8, 3, 3)
    y = nn.functional.conv2d(x.double(), weight, base[0].conv.bias.detach(), padding=1)
    bn = base[0].bn
    y = nn.functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight.detach(), bn.bias.detach(), eps=bn.eps)
    shift = adapter_tensors(model, plan)["0.conv.bias_delta"].double()
    torch.relu(y + (shift + delta).view(1, -1, 1, 1)).square().sum().backward()
    trained = (low_rank.lora_A, low_rank.lora_B, model[0].conv.parametrizations.bias.original)
    for got, expected in zip(trained, (a, b, delta), strict=True):
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=1e-4, atol=1e-4)


def test_tensors_loaded_into_a_fresh_attachment_give_the_same_output() -> None:
    model = nn.Sequential(Block(kernel_size=3), nn.Conv2d(8, 4, 1)).eval()
    plan = plan_adapter(model, AdapterSettings(), norms={"0.conv": "0.bn"}, whole={"1"})
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    attach(first, plan)
    fill(first)
    attach(second, plan)
    load_adapter_tensors(second, plan, adapter_tensors(first, plan))
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(second(x), first(x), atol=1e-6, rtol=1e-6)


def test_tensors_of_another_shape_are_refused_with_their_names() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    plan = plan_adapter(model, AdapterSettings(LoRA(rank=2)))
    with pytest.raises(AdapterError, match=r"0\.lora_A\.weight: missing.*other: belongs to no layer"):
        merge(model, plan, {"other": torch.zeros(1)})


def test_transposed_convolution_is_skipped_with_a_reason() -> None:
    _, skipped = adaptable_layers(nn.Sequential(nn.ConvTranspose2d(4, 4, 2)))
    assert "transposed" in skipped[0].reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": " "}, "--targets: expected"),
    ],
    ids=["no targets"],
)
def test_wrong_settings_are_refused(settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        AdapterSettings(**settings)


@pytest.mark.parametrize(
    ("targets", "message"),
    [("nothing", "--targets 'nothing' match no layer"), ("(", r"--targets '\(': .*regular expression")],
)
def test_targets_that_choose_nothing_are_refused(targets, message) -> None:
    with pytest.raises(UsageError, match=message):
        plan_adapter(nn.Sequential(nn.Linear(2, 2)), AdapterSettings(targets=targets))
