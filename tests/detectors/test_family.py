"""A family behind its protocol: which one a file is of, a base with an adapter, and what cards say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from visionlora import detectors
from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import adapter_tensors, load_adapter
from visionlora.cards import LICENCES
from visionlora.detectors import FAMILIES, family_named, family_of
from visionlora.detectors.family import check_targets
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU
from visionlora.detectors.ultralytics.measuring import adapted_step
from visionlora.errors import AdapterError, ModelError, UsageError
from visionlora.runtime import OnnxNetwork

RELU = AdapterSettings(LoRA(rank=2), activation="relu")


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


def test_every_family_goes_by_its_name() -> None:
    assert all(family_named(name, "a.pt").name == name for name in FAMILIES)
    assert set(LICENCES) == set(FAMILIES)


def test_another_family_is_refused_with_the_file_that_names_it() -> None:
    with pytest.raises(ModelError, match=r"x\.pt: expected a detector of .* or torchvision, got one of 'other'"):
        family_named("other", "x.pt")


class Toy:
    """A family whose checkpoints are .toy files."""

    def refusal(self, path: Path) -> str:
        return "" if path.suffix == ".toy" else "expected a .toy file"


def test_a_file_is_of_the_family_that_takes_it(checkpoint, monkeypatch) -> None:
    toy: Any = Toy()
    monkeypatch.setattr(detectors, "FAMILIES", {"toy": lambda: toy, **FAMILIES})
    assert family_of("a.toy") is toy and family_of(checkpoint) is family_of("yolo11n.pt") is FAMILIES["ultralytics"]()
    with pytest.raises(ModelError, match=r"^a\.onnx: expected a \.toy file; or expected an Ultralytics checkpoint"):
        family_of("a.onnx")


def test_a_checkpoint_whose_card_names_another_family_is_none_of_ultralytics(merged, tmp_path) -> None:
    content = torch.load(merged.path, weights_only=False)
    content["visionlora"]["family"] = "other"
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt: expected an Ultralytics checkpoint .* of 'other'"):
        family_of(tmp_path / "other.pt")


def test_a_name_without_ending_and_a_folder_are_refused_and_a_damaged_file_may_be_one(tmp_path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK no checkpoint")
    (tmp_path / "folder.pt").mkdir()
    assert family_of(tmp_path / "broken.pt").name == "ultralytics"
    for path, message in (
        ("yolo11n", "did you mean yolo11n.pt"),
        (tmp_path / "broken", "did you mean"),
        (tmp_path / "folder.pt", "got a folder"),
        (".", "got a folder"),
    ):
        with pytest.raises(ModelError, match=message):
            family_of(path)


def test_a_base_knows_its_family_and_keeps_it_with_an_adapter(checkpoint, adapter) -> None:
    family = family_of(checkpoint)
    base = family.load(checkpoint)
    merged = family.with_adapter(base, load_adapter(adapter))
    assert family_of(base) is family_of(merged) is family and merged.stride == base.stride == 32
    with pytest.raises(AdapterError, match="is one of 'other'"):
        family.with_adapter(replace(base, family="other"), load_adapter(adapter))


def test_adapted_copy_has_classes_and_activations_and_leaves_the_base(checkpoint) -> None:
    family = family_of(checkpoint)
    base = family.load(checkpoint)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    detector = family.adapted(base, ["dog", "rhino"], RELU)
    detector.attach()
    images = torch.rand(1, 3, 64, 64)
    assert family.raw_prediction(detector.model.eval(), images)[0].shape[1] == 4 + 2
    assert nn.SiLU not in kinds(detector.model) and nn.SiLU in kinds(base.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


@torch.no_grad()
def test_attached_and_merged_are_the_same_detector(checkpoint, adapter) -> None:
    family, loaded = family_of(checkpoint), load_adapter(adapter)
    base, images = family.load(checkpoint), torch.rand(1, 3, 64, 64)
    attached, merged = (family.adapted(base, loaded.card.names, loaded.card.settings) for _ in range(2))
    attached.attach(loaded.tensors)
    merged.merge(loaded.tensors)
    saved = adapter_tensors(attached.model, attached.plan)
    assert all(torch.equal(saved[name].half(), tensor) for name, tensor in loaded.tensors.items())
    expected, got = (family.raw_prediction(each.model.eval(), images) for each in (attached, merged))
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_targets_are_checked_without_a_trace(checkpoint) -> None:
    family = family_of(checkpoint)
    base, state = family.load(checkpoint), torch.get_rng_state()
    check_targets(family, base, ["rhino"], RELU)
    with pytest.raises(UsageError, match="match no layer"):
        check_targets(family, base, ["rhino"], AdapterSettings(targets="nothing"))
    assert torch.equal(torch.get_rng_state(), state)


def test_measured_step_has_the_activations_that_are_trained(checkpoint) -> None:
    base = family_of(checkpoint).load(checkpoint)
    found = kinds(adapted_step(base, base.names, RELU, device=torch.device("cpu")))
    assert SiLUToReLU in found and nn.SiLU not in found


def test_every_card_names_the_family(adapter, merged, exported) -> None:
    assert read_adapter_card(adapter).base["family"] == "ultralytics"
    base = family_of(merged.path).load(merged.path)
    assert base.card is not None and base.card["family"] == "ultralytics"
    assert OnnxNetwork(exported.path).metadata["family"] == "ultralytics"


def test_an_int8_file_names_the_family_of_its_float_file(with_recipe) -> None:
    assert OnnxNetwork(with_recipe[1]).metadata["family"] == "ultralytics"
