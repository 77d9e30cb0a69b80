"""Adapters on every family of Ultralytics detectors: same output before training, exact merge, kept classes."""

from __future__ import annotations

import copy

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import adapter_tensors, attach, merge
from visionlora.detectors.checkpoints import fingerprint
from visionlora.detectors.ultralytics import RawDetector, load_base, plan_detector, set_classes
from visionlora.detectors.ultralytics.checkpoint import raw_prediction
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import ModelError, UsageError

FAMILIES = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")


def random_detector(family: str) -> DetectionModel:
    """Return a detector of three classes with random weights and batch normalization statistics."""
    torch.manual_seed(0)
    model = DetectionModel(f"{family}.yaml", nc=3, verbose=False)
    model.names = {0: "cat", 1: "dog", 2: "bird"}
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.7, 1.3)
    return model.eval()


@torch.no_grad()
def output(model: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    prediction = model(torch.rand(1, 3, 64, 64))
    return prediction[0] if isinstance(prediction, tuple) else prediction


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_detector_equals_the_adapted_one(family: str) -> None:
    merged = random_detector(family)
    whole = set_classes(merged, ["dog", "rhino"])
    plan = plan_detector(merged, AdapterSettings(LoRA(rank=2)), whole=whole)
    adapted, before = copy.deepcopy(merged), output(merged)
    attach(adapted, plan)
    torch.testing.assert_close(output(adapted), before, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    merge(merged, plan, adapter_tensors(adapted, plan))
    assert not torch.allclose(output(adapted), before, atol=1e-2)
    torch.testing.assert_close(output(merged), output(adapted), atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_raw_prediction_is_of_the_head_that_ships_and_changes_nothing(family: str) -> None:
    model, images = random_detector(family), torch.rand(1, 3, 64, 64)
    before = output(model)
    (expected,) = RawDetector(model)(images)
    (got,) = raw_prediction(model, images)
    assert got.shape == (1, 4 + 3, 84)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    assert torch.equal(output(model), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_tensor_gets_a_gradient(family: str) -> None:
    model = random_detector(family)
    plan = plan_detector(model, AdapterSettings(LoRA(rank=2)), whole=set_classes(model, ["rhino"]))
    attach(model, plan)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)  # B = 0 would hide the gradient of A
    prediction = model(torch.rand(2, 3, 64, 64))
    heads = prediction.values() if "one2many" in prediction else [prediction]
    sum(head[key].square().mean() for head in heads for key in ("boxes", "scores")).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_known_classes_keep_their_outputs_by_name() -> None:
    model = random_detector("yolo26n")
    before = copy.deepcopy(model)
    replaced = set_classes(model, ["rhino", "DOG"])
    assert len(replaced) == 6  # three levels of two heads
    for path in replaced:
        new, old = model.get_submodule(path), before.get_submodule(path)
        assert torch.equal(new.weight[1], old.weight[1]) and torch.equal(new.bias[1], old.bias[1])
        assert new.in_channels == old.in_channels
    assert (model.nc, model.yaml["nc"], model.model[-1].nc, dict(model.names)) == (2, 2, 2, {0: "rhino", 1: "DOG"})


def test_equal_classes_change_nothing() -> None:
    model = random_detector("yolov8n")
    before = fingerprint(model)
    assert set_classes(model, ["Cat", "dog", "bird"]) == ()
    assert fingerprint(model) == before


def test_fingerprint_tells_weights_apart_and_ignores_their_precision() -> None:
    model = random_detector("yolov8n").half().float()
    assert fingerprint(copy.deepcopy(model).half()) == fingerprint(model)
    next(model.parameters()).data.view(-1)[0] += 1e-3
    assert fingerprint(copy.deepcopy(model)) != fingerprint(random_detector("yolov8n"))


@pytest.mark.parametrize(
    ("targets", "inside", "outside"),
    [
        ("backbone", "model.0.conv", "model.23.cv2.0.0.conv"),
        ("neck+head", "model.23.cv2.0.0.conv", "model.0.conv"),
        ("from:5", "model.5.conv", "model.3.conv"),
        ("to:3", "model.3.conv", "model.5.conv"),
        (r"model\.0\..*", "model.0.conv", "model.1.conv"),
    ],
)
def test_targets_choose_layers(targets: str, inside: str, outside: str) -> None:
    plan = plan_detector(random_detector("yolo11n"), AdapterSettings(targets=targets), whole=())
    adapted = {layer.name for layer in plan.adapted}
    assert inside in adapted and outside not in adapted
    assert outside in {layer.name for layer in plan.skipped}


def test_box_decoding_constant_is_skipped_with_a_reason() -> None:
    plan = plan_detector(random_detector("yolo11n"), AdapterSettings(), whole=())
    assert {layer.name: layer.reason for layer in plan.skipped} == {
        "model.23.dfl.conv": "constant of the box decoding (DFL)"
    }


def test_unknown_module_number_is_refused() -> None:
    with pytest.raises(UsageError, match="match no layer"):
        plan_detector(random_detector("yolov8n"), AdapterSettings(targets="from:99"), whole=())


def test_raw_detector_gives_the_one_to_many_head_of_an_end_to_end_model() -> None:
    model = random_detector("yolo26n")
    model.end2end = False
    torch.testing.assert_close(output(RawDetector(model)), output(model), atol=1e-3, rtol=1e-4)
    assert output(RawDetector(model)).shape == (1, 7, 84)


def test_base_is_loaded_with_its_names_and_size(checkpoint) -> None:
    base = load_base(checkpoint)
    assert (base.names[:2], len(base.names), base.image_size, base.card) == (("circle", "square"), 14, 160, None)
    assert base.model.training is False and next(base.model.parameters()).dtype == torch.float32


def test_a_network_on_several_devices_is_refused(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"--device 0,1: .* give one number"):
        ULTRALYTICS.open(checkpoint, device="0,1")


def test_unusable_checkpoints_are_refused(tmp_path, checkpoint) -> None:
    broken, other = tmp_path / "broken.pt", tmp_path / "segment.pt"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "state.pt")
    from ultralytics.nn.tasks import YOLOESegModel

    segmentation = YOLOESegModel("yoloe-11n-seg.yaml", nc=1, verbose=False)
    segmentation.task = "segment"
    torch.save({"model": segmentation}, other)
    cases = {
        tmp_path / "missing.pt": "no such file",
        broken: "cannot be read",
        tmp_path / "state.pt": "got weights without the model",
        other: "its head is YOLOESegment; supported for segment are the detectors of YOLOv8, YOLO11, YOLO12 or YOLO26",
        tmp_path / "model.onnx": "expected an Ultralytics checkpoint",
    }
    for path, message in cases.items():
        with pytest.raises(ModelError, match=message):
            load_base(path)


def test_fused_checkpoint_is_refused(tmp_path, checkpoint) -> None:
    saved = torch.load(checkpoint, weights_only=False)
    saved["model"] = saved["model"].float().fuse(verbose=False)
    torch.save(saved, tmp_path / "fused.pt")
    with pytest.raises(ModelError, match="fused already"):
        load_base(tmp_path / "fused.pt")
