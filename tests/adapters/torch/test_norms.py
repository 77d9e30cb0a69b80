"""Live normalization: trained as batch normalization, kept as a factor and an addend for each channel."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.shapes import BIAS, GAIN
from visionlora.adapters.torch import (
    BatchedWeights,
    LiveNorm,
    adapter_tensors,
    attach,
    freeze_norms,
    full_rank_limit,
    kept_statistics,
    load_adapter_tensors,
    merge,
    plan_adapter,
    trained_state,
)
from visionlora.errors import AdapterError, UsageError

LIVE = AdapterSettings(LoRA(rank=2, full=100), normalization="live")
NORMS = {"0": "1", "3": "4"}


@pytest.fixture
def base() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1, bias=False),  # 18 weights: at full rank
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 8, 3, bias=False),  # 432 weights: by factors
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8 * 16, 2),
    )
    for norm in (model[1], model[4]):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 2.0)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_()
    return model.eval()


@pytest.fixture
def trained(base: nn.Module) -> nn.Module:
    model = copy.deepcopy(base)
    attach(model, plan_adapter(base, LIVE, norms=NORMS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(5):
        with BatchedWeights(model).computed():
            model(3 + 2 * torch.randn(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_what_was_trained_live_is_the_same_in_every_form(base, trained) -> None:
    plan, x = plan_adapter(base, LIVE, norms=NORMS), torch.randn(4, 3, 6, 6)
    tensors = adapter_tensors(trained, plan)
    assert {name for name in tensors if name.endswith(GAIN)} == {f"{layer}{GAIN}" for layer in ("0", "3")}
    assert {name.split(".", 1)[1] for name in tensors if name.startswith("0.")} == {"delta.weight", GAIN[1:], BIAS[1:]}
    assert not torch.allclose(trained(x), base(x), atol=0.1)
    merged, folded, live = (copy.deepcopy(base) for _ in range(3))
    merge(merged, plan, tensors)
    attach(folded, plan, tensors)
    attach(live, plan)
    load_adapter_tensors(live, plan, tensors)
    for other in (merged, folded, live):
        torch.testing.assert_close(other(x), trained(x), atol=1e-4, rtol=1e-4)
    for other in (folded, live):
        again = adapter_tensors(other, plan)
        for name, tensor in tensors.items():
            torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=1e-5)
    assert torch.equal(merged[1].running_mean, base[1].running_mean) and torch.equal(merged[1].weight, base[1].weight)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_it_starts_as_the_base(base) -> None:
    model, x = copy.deepcopy(base), torch.randn(4, 3, 6, 6)
    attach(model, plan_adapter(base, LIVE, norms=NORMS))
    torch.testing.assert_close(model(x), base(x))
    gains = [
        tensor for name, tensor in adapter_tensors(model, plan_adapter(base, LIVE, norms=NORMS)).items() if GAIN in name
    ]
    assert gains and all(tensor.abs().max() < 1e-6 for tensor in gains)


def test_norms_train_by_the_batch_and_others_stay(base) -> None:
    model = copy.deepcopy(base)
    attach(model, plan_adapter(base, dataclasses.replace(LIVE, targets="3"), norms=NORMS))
    assert isinstance(model[1], nn.Identity) and isinstance(model[4], LiveNorm)
    model.train()
    freeze_norms(model)
    state = trained_state(model)
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    with kept_statistics(model):
        model(torch.randn(4, 3, 6, 6))
    assert all(torch.equal(before[name], tensor) for name, tensor in trained_state(model).items())
    model(torch.randn(4, 3, 6, 6))
    changed = {name for name, tensor in trained_state(model).items() if not torch.equal(before[name], tensor)}
    assert changed == {"4.running_mean", "4.running_var"}


def test_a_norm_with_a_silent_channel_stays_frozen(base) -> None:
    base[1].weight.data[2] = 0
    assert plan_adapter(base, LIVE, norms=NORMS).live == {"3"}
    assert plan_adapter(base, dataclasses.replace(LIVE, normalization="frozen"), norms=NORMS).live == frozenset()


def test_an_adapter_to_go_on_with_must_be_whole(base, trained) -> None:
    plan = plan_adapter(base, LIVE, norms=NORMS)
    tensors = adapter_tensors(trained, plan)
    del tensors[f"0{GAIN}"]
    untouched = copy.deepcopy(base)
    with pytest.raises(AdapterError, match=r"0\.gain_delta: missing"):
        attach(base, plan, tensors)
    assert [*base.state_dict()] == [*untouched.state_dict()]


def test_normalization_is_frozen_or_live() -> None:
    with pytest.raises(UsageError, match="normalization: expected frozen or live, got 'warm'"):
        AdapterSettings(normalization="warm")


@pytest.mark.parametrize(("more", "limit"), [(0, 18), (125, 18), (126, 256), (433, 256), (434, 432), (10_000, 432)])
def test_a_budget_goes_to_the_small_layers_first(base, more, limit) -> None:
    plan = plan_adapter(base, AdapterSettings(LoRA(rank=2)), norms=NORMS)
    model = copy.deepcopy(base)
    attach(model, plan)
    least = sum(parameter.numel() for parameter in model.parameters())
    assert full_rank_limit(plan, least + more) == limit
    chosen = plan_adapter(base, AdapterSettings(LoRA(rank=2, full=limit)), norms=NORMS)
    wider = copy.deepcopy(base)
    attach(wider, chosen)
    assert least <= sum(parameter.numel() for parameter in wider.parameters()) <= least + more
    with pytest.raises(UsageError, match=f"--budget: expected at least {least:,} parameters"):
        full_rank_limit(plan, least - 1)
