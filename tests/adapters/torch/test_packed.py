"""A base kept in fewer bits: it computes what the merged one does, in an eighth of the memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.base_precision import PRECISIONS, rounded_weight
from visionlora.adapters.methods import METHODS, LoRA
from visionlora.adapters.torch import (
    BatchedWeights,
    adapter_tensors,
    attach,
    frozen_bytes,
    load_adapter_tensors,
    merge,
    plan_adapter,
)
from visionlora.errors import ModelError

MERGING = [name for name, method in METHODS.items() if method.merges]

NORMS = {"conv": "norm", "frozen": "frozen_norm"}


class Net(nn.Module):
    """Layers that are rounded, adapted or not, and one that is too small for it."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 33, 3, padding=1)
        self.conv = nn.Conv2d(33, 40, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.frozen = nn.Conv2d(40, 70, 3, groups=2, bias=False)
        self.frozen_norm = nn.BatchNorm2d(70)
        self.point = nn.Conv2d(70, 64, 1)
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        for norm in (self.norm, self.frozen_norm):
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, -2.0, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(torch.relu(self.small(x)))))
        x = self.point(torch.relu(self.frozen_norm(self.frozen(x)))).flatten(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


def trained(settings: AdapterSettings) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return a base, itself with an adapter of random tensors, and itself with that merged."""
    torch.manual_seed(0)
    base = Net().eval()
    plan = plan_adapter(base, settings, norms=NORMS)
    adapted, merged = copy.deepcopy(base), copy.deepcopy(base)
    attach(adapted, plan)
    tensors = {name: torch.randn_like(tensor) * 0.1 for name, tensor in adapter_tensors(adapted, plan).items()}
    load_adapter_tensors(adapted, plan, tensors)
    merge(merged, plan, tensors)
    return base, adapted, merged


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        *(pytest.param(AdapterSettings(LoRA(2), base_precision=name), id=name) for name in PRECISIONS),
        *(pytest.param(AdapterSettings(METHODS[name](), base_precision="nf4"), id=name) for name in MERGING),
        pytest.param(AdapterSettings(LoRA(2), "small|conv", base_precision="nf4"), id="most layers without an adapter"),
        pytest.param(AdapterSettings(LoRA(2, full=5000), base_precision="nf4"), id="some at full rank"),
        pytest.param(AdapterSettings(LoRA(2), normalization="live", base_precision="int8"), id="live norms"),
    ],
)
def test_adapted_model_computes_what_the_merged_one_does(settings) -> None:
    base, adapted, merged = trained(settings)
    x = torch.rand(2, 3, 8, 8)
    expected = merged(x)
    assert torch.allclose(adapted(x), expected, atol=2e-5, rtol=1e-4)
    with BatchedWeights(adapted).computed():
        assert torch.allclose(adapted(x), expected, atol=2e-5, rtol=1e-4)
    with BatchedWeights(adapted.to(memory_format=torch.channels_last)).computed():
        assert torch.allclose(adapted(x), expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(base(x), expected, atol=1e-3)


@pytest.mark.parametrize("targets", ["all", "small"])
def test_merged_weights_are_the_rounded_ones_and_norms_stay(targets) -> None:
    base, _, merged = trained(AdapterSettings(METHODS["bitfit"](), targets, base_precision="nf4"))
    for name, weight in base.state_dict().items():
        got, own = merged.state_dict()[name], weight.numpy()
        if "running" in name or name.endswith("norm.weight"):
            assert torch.equal(got, weight)
        elif weight.dim() > 1:
            assert got.numpy().tobytes() == rounded_weight(own, "nf4").tobytes(), name
            assert np.array_equal(got.numpy(), own) == (name == "small.weight"), name


def test_packed_weight_brought_back_is_the_merged_one_to_the_bit() -> None:
    _, adapted, merged = trained(AdapterSettings(METHODS["bitfit"](), base_precision="nf4"))
    assert torch.equal(adapted.point.weight, merged.point.weight)
    assert torch.equal(adapted.attention.in_proj_weight, merged.attention.in_proj_weight)


@pytest.mark.parametrize("name", PRECISIONS)
def test_casting_and_moving_a_model_leaves_its_packed_weights(name) -> None:
    _, adapted, _ = trained(AdapterSettings(LoRA(2), base_precision=name))
    before, weight = frozen_bytes(adapted), adapted.point.weight
    copied = copy.deepcopy(adapted).float().to(memory_format=torch.channels_last)  # as the validator does
    assert frozen_bytes(copied) < 1.02 * before and torch.equal(copied.point.weight, weight)


@pytest.mark.parametrize("name", PRECISIONS)
def test_gradients_are_those_of_the_same_adapter_on_the_rounded_base_in_float32(name) -> None:
    base = trained(AdapterSettings(LoRA(2), base_precision=name))[0]
    rounded = copy.deepcopy(base)
    merge(rounded, plan_adapter(base, AdapterSettings(METHODS["bitfit"](), train_bias=False, base_precision=name)), {})
    gradients = []
    for model, precision in ((base, name), (rounded, "float32")):
        torch.manual_seed(1)
        attach(model, plan_adapter(model, AdapterSettings(LoRA(2), base_precision=precision), norms=NORMS))
        with BatchedWeights(model).computed():
            model(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[0].abs().max()))


@pytest.mark.parametrize(
    ("kind", "name"), [(DetectionModel, "yolo11x.yaml"), (RTDETRDetectionModel, "rtdetr-x.yaml")], ids=["yolo", "detr"]
)
def test_nf4_base_of_a_large_detector_takes_less_than_a_seventh_of_float32(kind, name) -> None:
    model = kind(name, verbose=False)
    float32 = 4 * sum(parameter.numel() for parameter in model.parameters())
    attach(model, plan_adapter(model, AdapterSettings(base_precision="nf4")))
    assert float32 > 2e8 and frozen_bytes(model) < float32 / 7


def test_base_that_a_precision_cannot_hold_is_refused_unchanged() -> None:
    model = Net()
    with torch.no_grad():
        model.point.weight[3, 4] = 1e5  # beyond half precision
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"1 layers have weights that fp16 cannot hold, the first is point"):
        attach(model, plan_adapter(model, AdapterSettings(base_precision="fp16"), norms=NORMS))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
