"""A new method is one value: a scale a channel, written here, is trained, saved, read and merged like LoRA."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import visionlora as vl
from tests.patching.conftest import exported_merged, graph_bytes
from visionlora.adapters import AdapterCard, AdapterSettings, load_arrays, save_arrays
from visionlora.adapters.methods import METHODS
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
from visionlora.errors import AdapterError, UsageError


@dataclass(frozen=True)
class ChannelScale:
    """W' = (1 + strength * s) * W, a number a channel (as IA3, arXiv 2205.05638)."""

    strength: float = 1.0
    name: ClassVar[str] = "scale"
    tensors: ClassVar[tuple[str, ...]] = ("scale",)
    merges: ClassVar[bool] = True

    @property
    def words(self) -> str:
        return "by channel"

    def shapes(self, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"scale": (weight[0],)}

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


@dataclass(frozen=True)
class Beside(ChannelScale):
    """The same, said to stay beside the weight."""

    name: ClassVar[str] = "beside"
    merges: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (ChannelScale, Beside):
        monkeypatch.setitem(METHODS, method.name, method)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.Flatten(), nn.Linear(6 * 36, 2)).eval()


def test_a_method_of_one_value_is_trained_saved_and_merged(model, tmp_path) -> None:
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


@pytest.fixture(scope="module")
def trained(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(METHODS, "scale", ChannelScale)
        out = tmp_path_factory.mktemp("scale") / "run"
        return vl.train(checkpoint, surface, out, method="scale", epochs=1, imgsz=96, batch=4, device="cpu").path


def test_it_goes_from_the_name_in_train_to_the_patched_file(trained, checkpoint, tmp_path) -> None:
    adapter = load_arrays(trained)
    assert adapter.card.settings == AdapterSettings(ChannelScale())
    assert any(np.any(tensor) for name, tensor in adapter.tensors.items() if name.endswith(".scale.weight"))
    base = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    patched = vl.patch(base, trained, tmp_path / "line.onnx").path
    assert graph_bytes(patched) == graph_bytes(exported_merged(checkpoint, trained, tmp_path))


def test_what_it_cannot_do_is_refused_by_name(trained, checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--rank: the method scale has no such setting, only strength"):
        vl.train(checkpoint, surface, tmp_path / "run", method="scale", rank=4)
    with pytest.raises(AdapterError, match=r"its method, scale, changes a weight by what .*; pass --model BASE"):
        vl.scale_adapter(trained, tmp_path / "half.safetensors", factor=0.5)
    assert vl.scale_adapter(trained, tmp_path / "half.safetensors", factor=0.5, model=checkpoint).error < 0.001

    adapter = load_arrays(trained)
    settings = dataclasses.replace(adapter.card.settings, method=Beside())
    card = dataclasses.replace(adapter.card, settings=settings)
    save_arrays(dataclasses.replace(adapter, card=card), tmp_path / "beside.safetensors")
    base = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    for refused in (
        lambda: vl.merge(checkpoint, tmp_path / "beside.safetensors", tmp_path / "merged.pt"),
        lambda: vl.patch(base, tmp_path / "beside.safetensors", tmp_path / "line.onnx"),
    ):
        with pytest.raises(AdapterError, match="the method beside adds layers; there is no weight"):
            refused()
    assert not (tmp_path / "merged.pt").exists() and not (tmp_path / "line.onnx").exists()
