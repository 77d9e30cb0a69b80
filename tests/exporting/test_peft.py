"""PEFT itself loads what is written, on the same base, and computes what the adapted base does."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import load_file, save_file
from ultralytics.nn.tasks import DetectionModel

import visionlora as vl
from visionlora.adapters.torch import load_adapter
from visionlora.detectors import family_of
from visionlora.errors import AdapterError, OutputError, UsageError

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
    with pytest.raises(UsageError, match="--format: expected peft or onnx-adapter, got 'gguf'"):
        vl.export_adapter(checkpoint, adapter, tmp_path / "peft", format="gguf")
    vl.export_adapter(checkpoint, adapter, tmp_path / "peft")
    with pytest.raises(OutputError, match="exists already; choose another --out or pass --overwrite"):
        vl.export_adapter(checkpoint, adapter, tmp_path / "peft")
    vl.export_adapter(checkpoint, adapter, tmp_path / "peft", overwrite=True)


@torch.no_grad()
def test_it_comes_back_as_it_went(trained, checkpoint, surface, tmp_path) -> None:
    made = vl.export_adapter(checkpoint, trained, tmp_path / "peft")
    back = vl.import_adapter(made.path, tmp_path / "back.safetensors", model=checkpoint, data=surface, imgsz=96)
    family = family_of(checkpoint)
    base, images = family.load(checkpoint), torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    first, second = (family.with_adapter(base, load_adapter(path)).model.eval() for path in (trained, back.path))
    torch.testing.assert_close(second(images)[0], first(images)[0], rtol=1e-4, atol=1e-3)
    assert back.names == made.names and back.settings.method.name == load_adapter(trained).card.settings.method.name
    onnx = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    vl.patch(onnx, back.path, tmp_path / "line.onnx")  # what it writes is an adapter as any


@torch.no_grad()
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_what_peft_trained_becomes_an_adapter(dora, checkpoint, surface, tmp_path) -> None:
    """With a rank that small layers do not have, a part of the layers, and alpha / r as the scale."""
    torch.manual_seed(0)
    model = with_classes(checkpoint, 6)
    parts = ("model.0.", "model.2.", "model.4.")
    convolutions = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1 and name.startswith(parts)
    ]
    heads = [f"model.{len(model.model) - 1}.cv3.{level}.2" for level in range(3)]
    config = peft.LoraConfig(
        r=12,
        lora_alpha=6,
        use_dora=dora,
        target_modules=convolutions,
        alpha_pattern={convolutions[1]: 20},
        rank_pattern={convolutions[2]: 3},
        modules_to_save=[*heads, "model.0.bn"],
    )
    tuned = peft.get_peft_model(copy.deepcopy(model), config).eval()
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(tmp_path / "peft")
    made = vl.import_adapter(tmp_path / "peft", tmp_path / "a.safetensors", model=checkpoint, data=surface, imgsz=96)
    family, adapter = family_of(checkpoint), load_adapter(made.path)
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    got = family.with_adapter(family.load(checkpoint), adapter).model.eval()(images)[0]
    torch.testing.assert_close(got, tuned(images)[0], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(model(images)[0], got, rtol=1e-2, atol=1e-1)
    assert adapter.card.settings.method.name == ("dora" if dora else "lora")
    assert any(name.endswith("lora_A.weight") for name in adapter.tensors)
    assert vl.inspect(made.path) is not None


def test_files_that_are_no_adapter_of_peft_are_refused(adapter, checkpoint, surface, tmp_path) -> None:
    made = vl.export_adapter(checkpoint, adapter, tmp_path / "peft")
    config, weights = made.path / "adapter_config.json", made.path / "adapter_model.safetensors"
    whole, text = weights.read_bytes(), config.read_text()

    def refused(message: str) -> None:
        with pytest.raises(AdapterError, match=message):
            vl.import_adapter(made.path, tmp_path / "a.safetensors", model=checkpoint, data=surface, imgsz=96)
        assert not (tmp_path / "a.safetensors").exists()

    config.write_text(text.replace('"LORA"', '"LOHA"'))
    refused("expected peft_type 'LORA' without lora_bias, got peft_type 'LOHA'")
    config.write_text("[")
    refused(r"expected adapter_config\.json and adapter_model\.safetensors, as PEFT saves them")
    config.write_text(text)
    weights.write_bytes(whole[:100])
    refused("as PEFT saves them")
    held = from_bytes(whole)
    save_file({**held, "base_model.model.model.99.conv.weight": torch.ones(1)}, weights)
    refused(r"1 tensors belong to no layer that an adapter changes, such as model\.99\.conv\.weight")
    head = next(name for name in held if ".cv3.0.2.weight" in name)
    save_file({name: tensor for name, tensor in held.items() if name != head}, weights)
    refused(r"expected the class outputs model\.23\.cv3\.0\.2\.weight, found none")
    layers = family_of(checkpoint).load(checkpoint).model.named_modules()
    grouped = next(name for name, module in layers if getattr(module, "groups", 1) > 1)
    factors = {f"base_model.model.{grouped}.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    save_file({**held, **factors}, weights)
    refused("grouped; PEFT's factors mix its groups, which its weight cannot")
    with pytest.raises(UsageError, match="multiple of 32, got 100"):
        vl.import_adapter(made.path, tmp_path / "a.safetensors", model=checkpoint, data=surface, imgsz=100)
