from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, load_checkpoint

from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.detectors.ultralytics.toy_base import BaseCard, save_base, write_base
from visionlora.errors import ModelError

PICTURE = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96)).astype(np.float32) / 255


def card_of(path: Path) -> dict[str, Any]:
    """Return what a toy base says about itself."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["visionlora"])


def test_the_checkpoint_holds_the_weights_and_gives_the_same_output(
    toy: DetectionModel, toy_base: Path, tmp_path: Path
) -> None:
    write_base(tmp_path / "toy.pt", toy_base)

    model, checkpoint = load_checkpoint(tmp_path / "toy.pt")
    ours = {name: tensor for name, tensor in toy.state_dict().items() if "num_batches" not in name}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in ours.items())
    with torch.no_grad():
        assert torch.equal(model(torch.from_numpy(PICTURE))[0], toy(torch.from_numpy(PICTURE))[0])
    assert model.names == {0: "one", 1: "two", 2: "three"} and checkpoint["train_args"]["imgsz"] == 96


def test_the_checkpoint_is_in_half_precision_and_small(toy_base: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "toy.pt", toy_base)

    stored = torch.load(tmp_path / "toy.pt", weights_only=False)["model"]
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.float16}
    assert toy_base.stat().st_size < 2_000_000


def test_equal_sources_write_equal_files_and_leave_the_random_state(toy_base: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for folder in ("a", "b"):
        write_base(tmp_path / folder / "toy.pt", toy_base)

    assert (tmp_path / "a/toy.pt").read_bytes() == (tmp_path / "b/toy.pt").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_file_holds_its_card(toy: DetectionModel, toy_base: Path) -> None:
    card = card_of(toy_base)

    assert card["names"] == ["one", "two", "three"] and card["image_size"] == 96 and card["scores"] == {"mAP50": 0.5}
    assert card["model"] == toy.yaml


def test_ultralytics_predicts_with_validates_and_fine_tunes_the_checkpoint(toy_base: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "toy.pt", toy_base)
    counts = {"train": 4, "val": 2}
    data = write_dataset(draw_surface, SURFACE_NAMES, tmp_path / "data", counts=counts, size=96, seed=0)
    quiet = {"imgsz": 96, "device": "cpu", "plots": False, "project": str(tmp_path), "verbose": False}

    assert YOLO(tmp_path / "toy.pt").predict(np.zeros((96, 96, 3), np.uint8), imgsz=96, verbose=False)[0].names
    model = YOLO(tmp_path / "toy.pt")
    model.train(data=str(data), epochs=1, batch=4, workers=0, amp=False, pretrained=True, **quiet)
    tuned = YOLO(tmp_path / "train/weights/best.pt")
    assert tuple(tuned.names.values()) == SURFACE_NAMES
    assert tuned.val(data=str(data), workers=0, **quiet).box.map >= 0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "expected a toy-base of format 1, got no file of visionlora"),
        ({"visionlora": '{"format": 1, "kind": "adapter"}'}, "got adapter of format 1"),
        ({"visionlora": '{"format": 9, "kind": "toy-base"}'}, "got toy-base of format 9"),
        ({"visionlora": "no json"}, "cannot read it"),
    ],
    ids=["foreign", "adapter", "later format", "broken metadata"],
)
def test_other_files_are_refused(tmp_path: Path, metadata: dict[str, str] | None, message: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=metadata)

    with pytest.raises(ModelError, match=message):
        write_base(tmp_path / "toy.pt", tmp_path / "other.safetensors")
    assert not (tmp_path / "toy.pt").exists()


def test_a_truncated_or_missing_file_is_refused(toy_base: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(toy_base.read_bytes()[:1000])

    for name in ("cut.safetensors", "missing.safetensors"):
        with pytest.raises(ModelError, match=name):
            write_base(tmp_path / "toy.pt", tmp_path / name)


def test_tensors_of_another_model_are_refused(toy: DetectionModel, tmp_path: Path) -> None:
    save_base(toy, BaseCard(toy.yaml, ("one", "two", "three", "four"), 96), tmp_path / "four.safetensors")

    with pytest.raises(ModelError, match="do not fit its model"):
        write_base(tmp_path / "toy.pt", tmp_path / "four.safetensors")


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.weight.data.fill_(1e6)

    with pytest.raises(ModelError, match="the first is weight"):
        save_base(model, BaseCard({}, ("one",), 96), tmp_path / "base.safetensors")
    assert not list(tmp_path.iterdir())


def test_pretraining_writes_a_base_with_its_provenance(
    tmp_path: Path, script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--images", "8", "--epochs", "1", "--imgsz", "96", "--batch", "4", "--workers", "1"]
    script("shapes/pretrain.py").main([*arguments, "--out", str(tmp_path / "base.safetensors")])

    card = card_of(tmp_path / "base.safetensors")
    counts = card["provenance"]["counts"]
    assert {split: boxes["images"] for split, boxes in counts.items()} == {"train": 8, "val": 8}
    assert (
        card["provenance"]["epochs"] == 1
        and "--images 8" in card["provenance"]["command"]
        and 0 <= card["scores"]["mAP50-95"] <= 1
    )
    assert "mAP50-95" in capsys.readouterr().out
    write_base(tmp_path / "base.pt", tmp_path / "base.safetensors")
    assert YOLO(tmp_path / "base.pt").names[0] == "circle"
