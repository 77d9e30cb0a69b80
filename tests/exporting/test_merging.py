"""Merging a file into a file: Ultralytics takes the result for its own."""

from __future__ import annotations

import pytest
import torch
from ultralytics import YOLO

from visionlora.adapters.torch import Adapter, load_adapter, save_adapter
from visionlora.detectors.ultralytics import load_base
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import AdapterError, ModelError, OutputError, UsageError
from visionlora.exporting import merge
from visionlora.workflows.evaluating import evaluate


def test_merged_checkpoint_reproduces_base_and_adapter(merged, checkpoint, adapter) -> None:
    images = torch.rand(2, 3, 96, 96).numpy()
    (expected,) = ULTRALYTICS.open(checkpoint, adapter=adapter)(images)
    torch.testing.assert_close(ULTRALYTICS.open(merged.path)(images)[0], expected, atol=1e-4, rtol=1e-4)
    assert merged.box_error < 1e-2 and merged.score_error < 1e-4 and merged.image_size == 96


def test_merged_checkpoint_keeps_batch_normalization_statistics(merged, checkpoint) -> None:
    base, result = load_base(checkpoint).model.state_dict(), load_base(merged.path).model.state_dict()
    names = [name for name in base if name.endswith(("bn.weight", "running_mean", "running_var"))]
    assert len(names) > 50 and all(torch.equal(base[name], result[name]) for name in names)


def test_merged_checkpoint_says_what_it_was_made_from(merged, checkpoint) -> None:
    base = load_base(merged.path)
    assert base.card["kind"] == "merged" and base.card["parents"]["base"] == load_base(checkpoint).fingerprint


def test_files_made_of_an_adapter_know_its_training_pictures(merged, exported, with_recipe, surface, tmp_path) -> None:
    files = {"merged": merged.path, "onnx": exported.path, "int8": with_recipe[1]}

    for label, file in files.items():  # each alone: nobody else in the report knows
        report = evaluate([f"{label}={file}"], surface, split="train", imgsz=96)
        assert any(f"`{label}` was trained on these very pictures" in one for one in report.warnings)
    held_out = evaluate([f"{label}={file}" for label, file in files.items()], surface, imgsz=96)
    assert not any("these very pictures" in one for one in held_out.warnings)


@pytest.mark.slow
def test_ultralytics_loads_validates_and_fine_tunes_a_merged_checkpoint(merged, surface, tmp_path) -> None:
    options = {"data": str(surface), "imgsz": 96, "device": "cpu", "plots": False, "verbose": False}
    model = YOLO(merged.path)
    assert list(model.names.values()) == list(merged.names)
    assert model.val(**options, project=str(tmp_path)).box.map >= 0
    before = model.model.state_dict()["model.0.conv.weight"].clone()
    model.train(**options, epochs=1, batch=4, project=str(tmp_path), optimizer="SGD", lr0=1e-9, amp=False)
    after = YOLO(model.trainer.last).model.state_dict()["model.0.conv.weight"].float()
    torch.testing.assert_close(after, before.float(), atol=1e-2, rtol=1e-2)  # it began from the merged weights


def test_adapter_of_another_base_is_refused(merged, adapter, tmp_path) -> None:
    with pytest.raises(AdapterError, match=r"belongs to base\.pt with weights"):
        merge(merged.path, adapter, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_adapter_with_a_missing_tensor_is_refused(checkpoint, adapter, tmp_path) -> None:
    loaded = load_adapter(adapter)
    tensors = dict(loaded.tensors)
    del tensors["model.0.conv.lora_A.weight"]
    save_adapter(Adapter(loaded.card, tensors), tmp_path / "cut.safetensors")
    with pytest.raises(AdapterError, match=r"model\.0\.conv\.lora_A\.weight: missing"):
        merge(checkpoint, tmp_path / "cut.safetensors", tmp_path / "x.pt")


def test_file_that_differs_from_the_adapted_base_is_not_kept(checkpoint, adapter, tmp_path, monkeypatch) -> None:
    original = ULTRALYTICS.with_adapter

    def wrong(base, loaded):
        result = original(base, loaded)
        result.model.model[0].conv.weight.data *= 1.5
        return result

    monkeypatch.setattr(ULTRALYTICS, "with_adapter", wrong)
    with pytest.raises(ModelError, match="does not reproduce"):
        merge(checkpoint, adapter, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_back_is_called_by_its_own_name(checkpoint, adapter, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ULTRALYTICS, "pack", lambda *_, **__: b"no checkpoint")
    with pytest.raises(ModelError, match=r"/x\.pt: cannot be read .*; no file is kept") as refused:
        merge(checkpoint, adapter, tmp_path / "x.pt")
    assert "partial" not in str(refused.value) and not list(tmp_path.iterdir())


def test_existing_file_and_wrong_suffix_are_refused(merged, checkpoint, adapter, tmp_path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        merge(checkpoint, adapter, merged.path)
    with pytest.raises(UsageError, match=r"ends in \.pt"):
        merge(checkpoint, adapter, tmp_path / "merged.pth")


def test_a_base_is_not_replaced_by_what_is_made_of_it(checkpoint, adapter, tmp_path) -> None:
    base = tmp_path / "base.pt"
    base.write_bytes(checkpoint.read_bytes())
    with pytest.raises(UsageError, match="another file than the base"):
        merge(base, adapter, base, overwrite=True)
    assert base.read_bytes() == checkpoint.read_bytes()
