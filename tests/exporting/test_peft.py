"""PEFT itself loads what is written, on the same base, and computes what the adapted base does."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from ultralytics.nn.tasks import DetectionModel

import visionlora as vl
from visionlora.adapters.torch import load_adapter
from visionlora.detectors import family_of
from visionlora.errors import OutputError, UsageError

peft = pytest.importorskip("peft")

QUICK = {"epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "lr0": 0.01, "quiet": True}
KINDS = {
    "near": {"recipe": "near"},
    "far": {"recipe": "far", "budget": "60%"},
    "dora": {"method": "dora", "recipe": "near", "rank": 4},
    "dora of a part": {"method": "dora", "recipe": "far", "targets": "head"},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("peft") / "run"
    return vl.train(checkpoint, surface, out, **QUICK, **KINDS[request.param]).path


def with_classes(checkpoint: Path, classes: int) -> DetectionModel:
    """Return the base with so many class outputs, as docs/methods.md has it."""
    base = family_of(checkpoint).load(checkpoint).model
    model = DetectionModel(base.yaml, nc=classes, verbose=False)
    model.load(base, verbose=False)
    return model.float().eval()


def loaded(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a model that is none of transformers'
        return peft.PeftModel.from_pretrained(model, folder).eval()


@torch.no_grad()
def test_peft_computes_what_the_adapted_base_does(trained, checkpoint, tmp_path) -> None:
    made = vl.export_adapter(checkpoint, trained, tmp_path / "peft")
    adapter, family = load_adapter(trained), family_of(checkpoint)
    expected = family.with_adapter(family.load(checkpoint), adapter).model.eval()
    base = with_classes(checkpoint, len(adapter.card.names))
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    got = loaded(copy.deepcopy(base), made.path)
    torch.testing.assert_close(got(images)[0], expected(images)[0], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(base(images)[0], expected(images)[0], rtol=1e-2, atol=1e-1)

    held = load_file(made.path / "adapter_model.safetensors")
    config = json.loads((made.path / "adapter_config.json").read_text())
    assert config["modules_to_save"] == list(made.whole) and config["target_modules"] == list(made.factors)
    assert len([name for name in held if name.endswith("lora_A.weight")]) == len(made.factors) > 5
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in held.values())
    assert made.bytes == sum(path.stat().st_size for path in made.path.iterdir())


@torch.no_grad()
def test_what_peft_writes_again_is_the_same(trained, checkpoint, tmp_path) -> None:
    made = vl.export_adapter(checkpoint, trained, tmp_path / "peft")
    model = loaded(with_classes(checkpoint, len(made.names)), made.path)
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (made.path, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_what_it_cannot_write_is_refused_and_nothing_is_left(adapter, checkpoint, surface, tmp_path) -> None:
    for settings, message in (
        ({"method": "ia3"}, r"--format peft: expected an adapter of the method lora or dora, got ia3"),
        ({"activation": "relu:head"}, r"trained with --activation relu:head, which no file of PEFT says"),
    ):
        path = vl.train(checkpoint, surface, tmp_path / "run", **QUICK, **settings, recipe="near", overwrite=True).path
        with pytest.raises(UsageError, match=message):
            vl.export_adapter(checkpoint, path, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    with pytest.raises(UsageError, match="--format: expected peft, got 'gguf'"):
        vl.export_adapter(checkpoint, adapter, tmp_path / "peft", format="gguf")
    vl.export_adapter(checkpoint, adapter, tmp_path / "peft")
    with pytest.raises(OutputError, match="exists; choose another --out, or pass --overwrite"):
        vl.export_adapter(checkpoint, adapter, tmp_path / "peft")
    vl.export_adapter(checkpoint, adapter, tmp_path / "peft", overwrite=True)
