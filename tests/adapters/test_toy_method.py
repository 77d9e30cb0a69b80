"""A new method is one value: a scale a channel, written here, is trained, saved, read and merged like LoRA."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterCard, AdapterSettings, card
from visionlora.adapters.torch import (
    Adapter,
    BatchedWeights,
    adapter_tensors,
    attach,
    load_adapter,
    load_adapter_tensors,
    merge,
    plan_adapter,
    save_adapter,
)


@dataclass(frozen=True)
class ChannelScale:
    """W' = (1 + strength * s) * W, a number a channel (as IA3, arXiv 2205.05638)."""

    strength: float = 1.0
    name: ClassVar[str] = "scale"
    tensors: ClassVar[tuple[str, ...]] = ("scale",)

    @property
    def words(self) -> str:
        return "by channel"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"scale": (weight[0],)}

    def weight_shape(self, tensors: Mapping[str, Any]) -> tuple[int, ...]:
        raise ValueError("a scale fits a weight of any inputs")

    def merged(self, weight: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        factor = 1 + np.float32(self.strength) * tensors["scale"].astype(np.float32)
        return weight * factor.reshape(-1, *(1 for _ in weight.shape[1:]))

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scale": torch.zeros(len(weight), device=weight.device)}

    def adapted(self, weight: torch.Tensor, tensors: Mapping[str, torch.Tensor], gain: Any) -> torch.Tensor:
        factor = 1 + self.strength * tensors["scale"]
        return weight * factor.reshape(-1, *(1 for _ in weight.shape[1:]))

    def batch(self, layers: Sequence[Any]) -> None:
        return None


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.Flatten(), nn.Linear(6 * 36, 2)).eval()


def test_a_method_of_one_value_goes_the_whole_way(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(card, "METHODS", {**card.METHODS, "scale": ChannelScale})
    plan = plan_adapter(model, AdapterSettings(ChannelScale(0.5)), norms={"0": "1"})
    x, trained = torch.randn(2, 3, 8, 8), copy.deepcopy(model)
    attach(trained, plan)
    torch.testing.assert_close(trained(x), model(x), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(x).square().sum().backward()
    optimizer.step()

    fields = {"names": ("a",), "base": {"name": "x", "fingerprint": "0" * 64}, "preprocessing": {"image_size": 32}}
    fields["task"] = "detect"
    made = Adapter(AdapterCard(settings=plan.settings, **fields), adapter_tensors(trained, plan))
    save_adapter(made, tmp_path / "toy.safetensors", dtype=torch.float32)
    loaded = load_adapter(tmp_path / "toy.safetensors")
    assert loaded.card.settings == plan.settings
    merged, resumed = copy.deepcopy(model), copy.deepcopy(model)
    merge(merged, plan, loaded.tensors)
    attach(resumed, plan)
    load_adapter_tensors(resumed, plan, loaded.tensors)

    assert not torch.allclose(trained(x), model(x), atol=1e-3)
    for other in (merged, resumed):
        torch.testing.assert_close(other(x), trained(x), atol=1e-5, rtol=1e-5)
    with BatchedWeights(resumed).computed():
        torch.testing.assert_close(resumed(x), trained(x), atol=1e-5, rtol=1e-5)
