"""The whole way of torchvision's detectors: train, resume, merge, export, quantize, patch."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import visionlora as vl
from tests.detectors.torchvision.conftest import CATEGORIES, DETECTORS, FCOS, RETINANET, SIZE, SSDLITE, random_detector
from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, adapter_tensors, freeze_norms, load_adapter, save_adapter
from visionlora.data import load_dataset
from visionlora.detectors.family import StepSample, StepSpec
from visionlora.detectors.torchvision.classes import class_output_names, set_classes
from visionlora.detectors.torchvision.family import TORCHVISION
from visionlora.detectors.torchvision.hyperparameters import TUNABLE
from visionlora.detectors.torchvision.layout import norms_behind_layers
from visionlora.detectors.torchvision.pictures import TrainingPictures
from visionlora.detectors.torchvision.trainer import losses_of
from visionlora.errors import AdapterError, DataError, UsageError
from visionlora.models import open_network
from visionlora.quantization import checks
from visionlora.runtime import OnnxNetwork
from visionlora.tasks import TASKS
from visionlora.training.planning import _ways
from visionlora.training.recipes import NEAR

STAGES = (FCOS, RETINANET, SSDLITE)


# -- classes and layers


@pytest.mark.parametrize("name", DETECTORS)
def test_a_class_known_by_name_keeps_its_row_at_every_anchor(name: str) -> None:
    model, before = random_detector(name), random_detector(name)
    replaced = set_classes(model, ("new", "Crack"))
    assert model.categories == ("__background__", "new", "Crack") and replaced == class_output_names(model)
    for path in replaced:
        new, old = model.get_submodule(path), before.get_submodule(path)
        anchors = old.out_channels // len(CATEGORIES)
        for now, was in ((new.weight, old.weight), (new.bias, old.bias)):
            now, was = now.detach().unflatten(0, (anchors, 3)), was.detach().unflatten(0, (anchors, 5))
            assert torch.equal(now[:, 0], was[:, 0]) and torch.equal(now[:, 2], was[:, 3])
    assert set_classes(model, ("NEW", "crack")) == ()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_batch_normalization_is_behind_a_layer(name: str) -> None:
    model = random_detector(name)
    norms = [path for path, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert sorted(norms_behind_layers(model).values()) == sorted(norms)


def test_targets_name_backbone_neck_and_head(checkpoints) -> None:
    base = TORCHVISION.load(checkpoints(FCOS))
    parts = {
        word: {layer.name for layer in TORCHVISION.adapted(base, base.names, settings(word)).plan.adapted}
        for word in ("backbone", "neck", "head", "all", "neck+head")
    }
    assert parts["backbone"] | parts["neck"] | parts["head"] == parts["all"]
    assert parts["neck"] | parts["head"] == parts["neck+head"] and not parts["neck"] & parts["head"]


def settings(targets: str = "all") -> AdapterSettings:
    return AdapterSettings(LoRA(rank=2), targets=targets)


def test_what_these_detectors_cannot_is_refused_by_name(checkpoints, surface: Path, tmp_path: Path) -> None:
    base = TORCHVISION.load(checkpoints(FCOS))
    with pytest.raises(UsageError, match="--task segment: torchvision's detectors find boxes"):
        TORCHVISION.adapted(replace(base, task=TASKS["segment"]), ("a",), settings())
    for options, message in (
        ({"quantize": "int8"}, "--quantize: the loss under the rounding"),
        ({"activation": "relu"}, "--activation: replaces SiLU"),
        ({"lean": True}, "--lean: computes again"),
        ({"hyperparameters": {"mosaic": 0.5}}, "mosaic: no hyperparameter of training torchvision's"),
        ({"hyperparameters": {"lr0": 0.5}}, "lr0: use --lr0"),
        (
            {"hyperparameters": {"fliplr": 2, "amp": 1, "patience": 0.5, "lrf": float("nan")}},
            "fliplr: .*amp: .*patience: .*lrf",
        ),
        ({"method": "prompt", "imgsz": 96}, "--method: modules beside the weights"),
        ({"method": "conv-adapter"}, "--method: modules beside the weights"),
        ({"task": "segment"}, "--task segment: torchvision's detectors do detect alone"),
        ({"imgsz": 100}, "--imgsz: expected a multiple of 32"),
    ):
        with pytest.raises(UsageError, match=message):
            vl.train(checkpoints(FCOS), surface, tmp_path / "run", **{"device": "cpu", "imgsz": 96, **options})
    assert not list(tmp_path.glob("run/*.*"))


# -- pictures


def test_a_sample_depends_on_seed_epoch_and_picture_alone_and_its_boxes_are_in_the_square(surface: Path) -> None:
    images = load_dataset(surface).split("train")
    chosen = {name: setting.default for name, setting in TUNABLE.items()}
    pictures, state = TrainingPictures(images, 64, chosen, seed=3), torch.get_rng_state()
    first, again, other = pictures[14], pictures[14], pictures[26]  # picture 2 in epochs 1 and 2
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    for number in range(36):
        image, target = pictures[number]
        assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all() and (target["labels"] >= 1).all()
        assert target["boxes"].numel() == 0 or 0 <= target["boxes"].min() <= target["boxes"].max() <= 64


def test_without_augmentation_a_sample_is_the_letterboxed_picture_with_its_boxes(surface: Path) -> None:
    images = load_dataset(surface).split("train")
    off = dict.fromkeys(("fliplr", "iou_crop", "photometric", "zoom_out"), 0.0)
    for number, image in enumerate(images):
        _, target = TrainingPictures(images, 192, off, seed=0)[number]
        np.testing.assert_allclose(target["boxes"], image.boxes_xyxy * 2, atol=1e-4)  # pictures of 96 px
        assert target["labels"].tolist() == (image.class_ids + 1).tolist()


# -- the whole way


@pytest.fixture(scope="session")
def runs(checkpoints, surface: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return the folder of a run of a detector by name: two epochs on the surface pictures."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("run") / "run"
            train(checkpoints(name), surface, made[name])
        return made[name]

    return run


def train(model: Path, data: Path, out: Path, epochs: int = 2, **options):
    given = {"rank": 2, "imgsz": SIZE, "batch": 6, "device": "cpu", "lr0": 0.01, "hyperparameters": {"workers": 0}}
    return vl.train(model, data, out, epochs=epochs, quiet=True, **{**given, **options})


@pytest.fixture(scope="session")
def stages(checkpoints, runs, tmp_path_factory: pytest.TempPathFactory):
    """Return the merged checkpoint and the ONNX file of a run by the name of its detector."""
    made: dict[str, tuple[vl.MergedModel, vl.ExportedModel]] = {}

    def stage(name: str) -> tuple[vl.MergedModel, vl.ExportedModel]:
        if name not in made:
            folder = tmp_path_factory.mktemp("stages")
            merged = vl.merge(checkpoints(name), runs(name) / "adapter.safetensors", folder / "merged.pt")
            made[name] = merged, vl.export(merged.path, folder / "model.onnx")
        return made[name]

    return stage


@pytest.mark.parametrize("name", STAGES)
def test_merged_and_exported_are_the_adapted_detector(name: str, checkpoints, runs, stages) -> None:
    images = np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32)
    (expected,) = TORCHVISION.open(checkpoints(name), adapter=runs(name) / "adapter.safetensors")(images)
    (base,) = TORCHVISION.open(checkpoints(name))(images)
    assert expected.shape[1] == 4 + 6 and not np.allclose(expected[:, :4], base[:, :4], atol=1e-3)
    merged, exported = stages(name)
    assert merged.box_error < 1e-2 and merged.score_error < 1e-4
    for path in (merged.path, exported.path):
        (got,) = open_network(path)(images)
        np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-4)
    entries = torch.load(merged.path, weights_only=True)
    assert entries["categories"][0] == "__background__" and len(entries["categories"]) == 7
    assert entries["visionlora"]["family"] == OnnxNetwork(exported.path).metadata["family"] == "torchvision"


def test_losses_fall_and_the_record_says_all(checkpoints, surface: Path, tmp_path: Path) -> None:
    off = {"fliplr": 0.0, "iou_crop": 0.0, "photometric": 0.0, "zoom_out": 0.0, "warmup_epochs": 0.0, "workers": 0}
    trained = train(checkpoints(FCOS), surface, tmp_path / "run", epochs=4, hyperparameters=off, lora_plus=4)
    header, *rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    losses = [sum(map(float, row.split(",")[2:5])) for row in rows]
    assert header.startswith("epoch,time,train/classification,train/bbox_regression,train/bbox_ctrness,metrics/")
    assert losses[-1] < 0.9 * losses[0]
    card = read_adapter_card(tmp_path / "run" / "adapter.safetensors")
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert card.base["family"] == "torchvision" and set(record["versions"]) == {"torch", "torchvision", "numpy"}
    assert record["hyperparameters"]["iou_crop"] == 0.0 and record["lora_plus"] == 4
    assert (tmp_path / "run" / "curves.png").is_file()
    if trained.map50_95 == 0:  # as far as this machine gets: of epochs alike the last has learned most
        assert trained.epoch == len(rows)


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(checkpoints, surface, tmp_path: Path) -> None:
    start = "gradient"  # from the first batches, which are drawn again
    whole = train(checkpoints(FCOS), surface, tmp_path / "whole", start=start)
    seen = []

    def stop(event) -> None:
        if event.stage == "train" and event.done == 1:
            raise KeyboardInterrupt
        seen.append(event)

    with pytest.raises(KeyboardInterrupt), vl.progress_to(stop):
        vl.train(
            checkpoints(FCOS),
            surface,
            tmp_path / "halved",
            epochs=2,
            rank=2,
            imgsz=SIZE,
            batch=6,
            device="cpu",
            lr0=0.01,
            start=start,
            hyperparameters={"workers": 0},
        )
    resumed = train(checkpoints(FCOS), surface, tmp_path / "halved", start=start, resume=True)
    expected, got = (load_adapter(each.path).tensors for each in (whole, resumed))
    assert expected.keys() == got.keys() and all(torch.equal(got[name], each) for name, each in expected.items())
    longer = train(checkpoints(FCOS), surface, tmp_path / "halved", start=start, resume=True, epochs=3)
    assert longer.epoch <= 3 and len((tmp_path / "halved" / "results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("name", STAGES)
def test_under_autocast_boxes_and_anchors_are_in_float32(name: str, monkeypatch) -> None:
    """A coordinate in half precision would be rounded to half a pixel, or more."""
    model = random_detector(name).train()
    freeze_norms(model)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    targets = [{"boxes": torch.tensor([[9.3, 12.7, 70.1, 64.9]]), "labels": torch.tensor([1])}] * 2
    seen, whole = [], model.compute_loss
    monkeypatch.setattr(model, "compute_loss", lambda *given: seen.append(given) or whole(*given))
    losses_of(model, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(model, images, targets)
    (_, outputs, anchors, *_), (_, half, same, *_) = seen
    assert all(torch.equal(*pair) for pair in zip(anchors, same, strict=True))
    assert {each.dtype for each in (*half.values(), *losses.values())} == {torch.float32}
    assert not torch.equal(outputs["cls_logits"], half["cls_logits"])  # the rest is not


def test_a_picture_that_is_gone_is_named_without_the_traceback_of_a_process(
    checkpoints, surface, tmp_path: Path
) -> None:
    shutil.copytree(surface.parent, tmp_path / "data")
    gone = next((tmp_path / "data" / "images" / "train").iterdir())

    def remove(event) -> None:
        if "trainable" in event.message:
            gone.unlink()

    with vl.progress_to(remove), pytest.raises(DataError, match=rf"^\S*{gone.name}: [^\n]*$"):
        train(checkpoints(FCOS), tmp_path / "data" / surface.name, tmp_path / "run", hyperparameters={"workers": 2})


def test_a_run_without_numbers_begins_the_epoch_again_and_then_ends(checkpoints, surface, tmp_path: Path) -> None:
    lines: list[str] = []
    with vl.progress_to(lambda event: lines.append(event.message)), pytest.raises(vl.VisionLoraError, match="halved 3"):
        vl.train(
            checkpoints(RETINANET),
            surface,
            tmp_path / "run",
            epochs=2,
            rank=2,
            imgsz=SIZE,
            batch=6,
            lr0=1.0,
            alpha=1e6,
            device="cpu",
            hyperparameters={"workers": 0, "warmup_epochs": 0.0},
        )
    assert sum("begins again" in line for line in lines) == 3


@pytest.mark.parametrize("name", STAGES)
def test_int8_runs_in_int8_and_sees_what_the_float_file_sees(
    name: str, stages, surface, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(checks, "SHORTEST", math.inf)  # of pictures this small int8 need not be the faster
    _, exported = stages(name)
    quantized = vl.quantize(exported.path, surface, tmp_path / "model.int8.onnx", images=4, weights="int7")
    assert quantized.int8_convs >= 0.9 * quantized.convs
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    (expected,), (got,) = (OnnxNetwork(path)(images) for path in (exported.path, quantized.path))
    alike = np.corrcoef(expected[0, 4:].ravel(), got[0, 4:].ravel())[0, 1]
    assert alike > (0.5 if name == SSDLITE else 0.85)  # errors of random layers add up, of SSDlite's many most of all
    found = vl.Detector(quantized.path).predict(np.zeros((50, 70, 3), dtype=np.uint8))
    assert np.isfinite(found.boxes_xyxy).all()


@pytest.mark.parametrize("name", [FCOS, SSDLITE])
def test_an_adapter_of_the_same_classes_is_patched_as_if_merged_and_others_are_refused(
    name: str, checkpoints, runs, tmp_path: Path
) -> None:
    base = TORCHVISION.load(checkpoints(name))
    detector = TORCHVISION.adapted(base, base.names, settings())
    detector.attach()
    for parameter in detector.model.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    card = replace(read_adapter_card(runs(name) / "adapter.safetensors"), names=base.names)
    own = tmp_path / "own.safetensors"
    save_adapter(Adapter(card, adapter_tensors(detector.model, detector.plan)), own)
    exported = vl.export(base.path, tmp_path / "base.onnx")
    patched = vl.patch(exported.path, own, tmp_path / "patched.onnx")
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    (before,), (got,) = (OnnxNetwork(path)(images) for path in (exported.path, patched.path))
    (expected,) = TORCHVISION.open(base.path, adapter=own)(images)
    np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-4)
    assert not np.allclose(got, before, atol=2e-3, rtol=1e-4)
    with pytest.raises(AdapterError, match=r"other classes .* of a torchvision detector is laid out for its own"):
        vl.patch(exported.path, runs(name) / "adapter.safetensors", tmp_path / "other.onnx")


def test_steps_are_measured_and_a_plan_has_no_way_that_there_is_not(checkpoints) -> None:
    base = TORCHVISION.load(checkpoints(FCOS))
    ways = [way.options for way in _ways(base, NEAR)]
    assert "--rank 8" in ways and "--rank 8 --targets head" in ways and not any("lean" in str(way) for way in ways)
    objects = [np.array([[0, 0.5, 0.5, 0.4, 0.4]]), np.zeros((0, 5))]
    sample = StepSample(("a",), objects, 2, 64, torch.device("cpu"))
    *_, (full, adapter) = TORCHVISION.measure_steps(base, [StepSpec(), StepSpec(settings())], sample, rounds=1)
    assert full.milliseconds and adapter.milliseconds and full.trainable > 50 * adapter.trainable
    with pytest.raises(UsageError, match="--batch auto"):
        TORCHVISION.training_memory(base, StepSpec(), sample, last=0, validated=0, limit=1)
