"""What LyCORIS trained becomes an adapter that computes what LyCORIS does."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import visionlora as vl
from visionlora.adapters.torch import load_adapter
from visionlora.cli import main
from visionlora.detectors import family_of
from visionlora.detectors.family import Base
from visionlora.errors import AdapterError, UsageError

lycoris = pytest.importorskip("lycoris")

LAYERS = r"model\.(0|2|4)\..*conv$|model\.23\.cv[23]\.0\..*"  # grouped ones, and such with a bias of their own, too
KINDS = {
    "locon": ({"algo": "locon", "linear_dim": 3, "linear_alpha": 2}, "lora", True),
    "locon with a core": ({"algo": "locon", "linear_dim": 3, "use_tucker": True}, "lora", True),
    "locon, larger than small layers": ({"algo": "locon", "linear_dim": 12, "linear_alpha": 5}, "lora", True),
    "dora": ({"algo": "locon", "linear_dim": 3, "dora_wd": True}, "dora", True),
    "dora by inputs": ({"algo": "locon", "linear_dim": 3, "dora_wd": True, "wd_on_output": False}, "lora", False),
    "loha": ({"algo": "loha", "linear_dim": 2, "linear_alpha": 3}, "loha", None),
    "loha with cores": ({"algo": "loha", "linear_dim": 3, "use_tucker": True}, "lora", False),
    "lokr": ({"algo": "lokr", "linear_dim": 1, "linear_alpha": 2}, "lokr", None),
    "lokr with a whole matrix": ({"algo": "lokr", "linear_dim": 4, "linear_alpha": 2}, "lora", False),
    "lokr in four": ({"algo": "lokr", "linear_dim": 1, "decompose_both": True, "use_tucker": True}, "lora", False),
    "dokr": ({"algo": "lokr", "linear_dim": 2, "factor": 4, "dora_wd": True}, "lora", False),
    "ia3": ({"algo": "ia3"}, "ia3", None),
    "full": ({"algo": "full"}, "lora", False),
}


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> Base:
    return family_of(checkpoint).load(checkpoint)


@pytest.fixture(scope="module")
def own_classes(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data.yaml with the classes of the base."""
    path = tmp_path_factory.mktemp("data") / "data.yaml"
    path.write_text(yaml.safe_dump({"train": "images", "val": "images", "names": list(base.names)}))
    return path


@pytest.fixture(autouse=True)
def preset() -> Iterator[None]:
    """Let LyCORIS take these layers alone; it keeps that in a class."""
    held = {name: getattr(lycoris.LycorisNetwork, name) for name in ("TARGET_REPLACE_MODULE", "TARGET_REPLACE_NAME")}
    yield
    for name, value in held.items():
        setattr(lycoris.LycorisNetwork, name, value)


def trained(base: Base, out: Path, layers: str = LAYERS, **settings: object) -> torch.nn.Module:
    """Write a file of LyCORIS; return the base that computes with it."""
    model = copy.deepcopy(base.model).float().eval()
    lycoris.LycorisNetwork.apply_preset({"target_module": [], "target_name": [rf"({layers})"]})
    network = lycoris.create_lycoris(model, 1.0, warn_on_unmatched=False, **settings)
    network.apply_to()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    network.save_weights(str(out), None, {})
    return model


@torch.no_grad()
def assert_computes_as(theirs: torch.nn.Module, base: Base, adapter: Path) -> None:
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    got = family_of(base).with_adapter(base, load_adapter(adapter)).model.eval()(images)[0]
    torch.testing.assert_close(got, theirs(images)[0], rtol=1e-4, atol=2e-3)
    assert (base.model.eval()(images)[0] - got).abs().max() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_lycoris_trained_becomes_an_adapter(kind, base, own_classes, tmp_path) -> None:
    settings, method, factors = KINDS[kind]
    source, out = tmp_path / "theirs.safetensors", tmp_path / "a.safetensors"
    theirs = trained(base, source, **settings)
    made = vl.import_adapter(source, out, model=base.path, data=own_classes, imgsz=96, format="lycoris")
    assert_computes_as(theirs, base, out)
    assert made.settings.method.name == method
    if factors is not None:
        assert any(name.endswith("lora_A.weight") for name in load_adapter(out).tensors) == factors


def test_forms_may_be_mixed(base, own_classes, tmp_path) -> None:
    parts = {r"model\.0\.conv": "loha", r"model\.2\..*conv$": "ia3", r"model\.4\..*conv$": "locon"}
    model, held = base, {}
    for number, (layers, algo) in enumerate(parts.items()):
        path = tmp_path / f"{number}.safetensors"
        theirs = trained(model, path, layers, algo=algo, linear_dim=2)
        model = dataclasses.replace(base, model=theirs)
        held |= load_file(path)
    save_file(held, tmp_path / "all.safetensors")
    out = tmp_path / "a.safetensors"
    line = ["adapters", "import", str(tmp_path / "all.safetensors"), "--model", str(base.path), "--format", "lycoris"]
    assert main([*line, "--data", str(own_classes), "--imgsz", "96", "--out", str(out)]) == 0
    assert_computes_as(theirs, base, out)


def test_what_is_no_file_of_lycoris_for_this_base_is_refused(base, own_classes, surface, tmp_path) -> None:
    source = tmp_path / "theirs.safetensors"
    trained(base, source, r"model\.0\.conv", algo="locon", linear_dim=2)
    held = load_file(source)
    module = "lycoris_model_0_conv"

    def refused(message: str, tensors: dict[str, torch.Tensor] | None = None, data: Path = own_classes) -> None:
        if tensors is not None:
            save_file(tensors, source)
        with pytest.raises(AdapterError, match=message):
            vl.import_adapter(
                source, tmp_path / "a.safetensors", model=base.path, data=data, imgsz=96, format="lycoris"
            )
        assert not (tmp_path / "a.safetensors").exists()

    refused("expected --data with the classes of the base", data=surface)
    without = {name: tensor for name, tensor in held.items() if not name.endswith("lora_up.weight")}
    refused(r"model\.0\.conv: expected LoCon, LoHa, .* got alpha \(\), lora_down\.weight \(2, 3", without)
    refused("expected LoCon", {**held, f"{module}.lora_up.weight": torch.ones(7, 2, 1, 1)})
    refused("expected LoCon", {**held, f"{module}.oft_blocks": torch.ones(2)})
    refused(r"got 1 others, such as unet_in", {**held, "lycoris_unet_in.diff": torch.ones(1)})
    dfl = f"lycoris_model_{len(base.model.model) - 1}_dfl_conv.diff"
    refused(r"dfl\.conv: changed, but no adapter here can change it", {**held, dfl: torch.ones(1, 16, 1, 1)})
    refused("got none", {dfl: torch.zeros(1, 16, 1, 1)})
    refused("not finite", {**held, f"{module}.lora_up.weight": held[f"{module}.lora_up.weight"] * torch.inf})
    source.write_bytes(b"no file of this kind")
    refused(r"expected a \.safetensors file, as LyCORIS saves it")
    with pytest.raises(UsageError, match="expected another file than the one that is read"):
        vl.import_adapter(source, source, model=base.path, data=own_classes, imgsz=96, format="lycoris", overwrite=True)
