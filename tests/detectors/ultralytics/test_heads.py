"""Detectors of masks, keypoints and oriented boxes: loaded, adapted, merged and exported as detectors of boxes are."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel

import visionlora as vl
from tests.turned import POSE, TURNED, write_detector, write_yolo26
from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, adapter_tensors, load_adapter_tensors, save_adapter
from visionlora.cards import preprocessing_card
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics import adapted, load_base
from visionlora.detectors.ultralytics.checkpoint import raw_prediction
from visionlora.detectors.ultralytics.heads import task_of_model, with_task
from visionlora.errors import AdapterError, UsageError
from visionlora.exporting import export, merge
from visionlora.patching import patch
from visionlora.tasks import DETECT, TASKS, OrientedBoxes, Pose, Segment, Task, task_fields
from visionlora.vision.rotated import regularized

KINDS = {
    "yolov8n-seg": SegmentationModel,
    "yolo11n-pose": PoseModel,
    "yolo12n-obb": OBBModel,
    "yolo26n-seg": SegmentationModel,
    "yolo26n-pose": PoseModel,
    "yolo26n-obb": OBBModel,
}
IMAGES = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bases(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """Return a tiny detector of each task, by name."""
    folder = tmp_path_factory.mktemp("bases")
    made = {task.name: write_detector(checkpoint, task, folder / f"{task.name}.pt") for task in TURNED}
    return {name: load_base(path) for name, path in {**made, "detect": checkpoint}.items()}


def trained(base: Base, task: Task, path: Path, *, of: Base | None = None) -> Path:
    """Write an adapter of random tensors that gives a base a task and classes; it says that it is `of` another one."""
    names = ("red", "blue")
    card = AdapterCard(
        settings=AdapterSettings(LoRA(rank=2)),
        names=names,
        base={"name": base.path.name, "fingerprint": (of or base).fingerprint, "family": base.family},
        preprocessing=preprocessing_card(96),
        **task_fields(task),
    )
    torch.manual_seed(1)
    detector = adapted(Base(**{**vars(base), "task": task}), names, card.settings)
    detector.attach()
    with torch.no_grad():
        for parameter in detector.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_adapter(Adapter(card, adapter_tensors(detector.model, detector.plan)), path)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_ultralytics_own_heads_are_known_with_their_sizes(name: str) -> None:
    model = KINDS[name](f"{name}.yaml", nc=3, verbose=False).eval()
    model.task = {"seg": "segment"}.get(name[-3:], name.rpartition("-")[2])
    task = task_of_model(model)
    outputs = raw_prediction(model, torch.zeros(1, 3, 64, 64))
    assert task == TASKS[task.name] and len(outputs) == task.outputs
    assert outputs[0].shape == (1, task.rows(3), 84)


@torch.no_grad()
@pytest.mark.parametrize(
    ("own", "task"),
    [("segment", TURNED[0]), ("detect", Segment(4)), ("pose", Pose(3, 3)), ("detect", OrientedBoxes())],
    ids=["segment", "segment of detection", "pose of other sizes", "obb of detection"],
)
def test_an_adapter_that_gives_a_task_is_merged_and_exported_exactly(bases, own, task, tmp_path) -> None:
    base = bases[own]
    path = trained(base, task, tmp_path / "a.safetensors")
    merged = merge(base.path, path, tmp_path / "merged.pt")
    assert merged.box_error < 1e-2 and load_base(merged.path).task == task
    file = export(merged.path, tmp_path / "model.onnx", imgsz=96).path
    shipped = onnxruntime.InferenceSession(file)
    ultralytics = YOLO(merged.path).model.eval()
    expected = raw_prediction(ultralytics, IMAGES)
    assert [output.name for output in shipped.get_outputs()] == [f"output{i}" for i in range(task.outputs)]
    for got, wanted in zip(shipped.run(None, {"images": IMAGES.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(got), wanted, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("task", [Segment(), Pose(3, 3), OrientedBoxes()], ids=lambda task: task.name)
def test_an_adapter_of_yolo26_finds_what_ultralytics_finds_with_it(task, tmp_path) -> None:
    base = load_base(write_yolo26(task, tmp_path / "base.pt"))
    merged = merge(base.path, trained(base, task, tmp_path / "a.safetensors"), tmp_path / "merged.pt").path
    detector = vl.Detector(export(merged, tmp_path / "model.onnx").path, iou_threshold=0.7)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    raw = detector.network((picture[None, ..., ::-1] / np.float32(255)).transpose(0, 3, 1, 2))
    score = float(np.sort(raw[0][0, 4:6].max(axis=0))[-30])
    asked = {"conf": score, "iou": 0.7, "imgsz": 96, "verbose": False, "retina_masks": True}
    (theirs,) = YOLO(merged)(picture, **asked)
    found = detector.predict(picture, confidence=score)

    boxes, same = (theirs.boxes, "boxes_xyxy") if theirs.obb is None else (theirs.obb, "obb")
    expected = boxes.xyxy.numpy() if same == "boxes_xyxy" else regularized(boxes.xywhr.numpy())
    assert len(found) >= len(expected) > 3  # ours may give an anchor several classes
    apart = np.abs(expected[:, None] - getattr(found, same)).max(axis=2)
    apart[boxes.cls.numpy()[:, None] != found.class_ids] = np.inf
    found = found.at(apart.argmin(axis=1))
    np.testing.assert_allclose(getattr(found, same), expected, atol=0.01)
    np.testing.assert_allclose(found.scores, boxes.conf, atol=1e-4)
    if found.keypoints is not None:
        np.testing.assert_allclose(found.keypoints[..., :2], theirs.keypoints.xy, atol=0.01)
    if found.masks is not None:
        masks = enumerate(theirs.masks.data.numpy().astype(bool))
        assert max((found.masks.dense(index) != mask).mean() for index, mask in masks) < 0.02


def test_a_new_head_begins_with_the_boxes_and_scores_of_the_detector(bases) -> None:
    base = bases["detect"]
    before = raw_prediction(base.model, IMAGES)[0]
    for task in (Segment(), Pose(3, 3)):
        model, new = with_task(copy.deepcopy(base.model), task)
        first = raw_prediction(model, IMAGES)[0]
        torch.testing.assert_close(first[:, : before.shape[1]], before, atol=1e-3, rtol=1e-4)
        assert new and not any("cv2" in name or "cv3" in name for name in new if "proto" not in name)


def test_signals_keep_their_size_through_a_new_head(bases) -> None:
    torch.manual_seed(0)
    model, _ = with_task(copy.deepcopy(bases["detect"].model), Segment())
    spread = raw_prediction(model, IMAGES)[1].std()
    assert 0.05 < spread < 20


def test_keypoints_of_other_sizes_are_trained_whole_and_those_of_the_same_are_adapted(bases) -> None:
    base = bases["pose"]
    other = Base(**{**vars(base), "task": Pose(7, 3)})
    same, anew = (adapted(each, base.names, AdapterSettings()).plan for each in (base, other))
    outputs = [f"model.{len(base.model.model) - 1}.cv4.{level}.2" for level in range(3)]
    assert same.whole == () and [layer.name for layer in anew.whole] == outputs
    assert {layer.name for layer in same.adapted} >= set(outputs)


def test_a_base_of_another_task_or_with_two_heads_is_refused(bases) -> None:
    with pytest.raises(UsageError, match=r"--task pose: expected a base of that task or of detection, got .* segment"):
        with_task(copy.deepcopy(bases["segment"].model), POSE)
    end_to_end = DetectionModel("yolo26n.yaml", nc=2, verbose=False)
    end_to_end.task = "detect"
    with pytest.raises(UsageError, match="end-to-end head"):
        with_task(end_to_end, OrientedBoxes())


def test_an_adapter_of_a_task_that_its_base_cannot_have_is_refused(bases, tmp_path) -> None:
    path = trained(bases["detect"], DETECT, tmp_path / "a.safetensors", of=bases["pose"])
    with pytest.raises(AdapterError, match="do not fit"):
        merge(bases["pose"].path, path, tmp_path / "merged.pt")


def test_an_adapter_that_gives_another_task_is_not_patched(merged, exported, tmp_path) -> None:
    path = trained(load_base(merged.path), POSE, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"task pose \(keypoints \d, dims \d\), .* of detect, and a patch does not"):
        patch(exported.path, path, tmp_path / "patched.onnx")


def test_tensors_of_a_new_head_go_in_and_out_of_an_adapter(bases) -> None:
    base = Base(**{**vars(bases["detect"]), "task": Segment(4)})
    first, second = (adapted(base, base.names, AdapterSettings(LoRA(rank=1))) for _ in range(2))
    for detector in (first, second):
        detector.attach()
    load_adapter_tensors(second.model, second.plan, adapter_tensors(first.model, first.plan))
    for got, wanted in zip(raw_prediction(second.model, IMAGES), raw_prediction(first.model, IMAGES), strict=True):
        torch.testing.assert_close(got, wanted)
