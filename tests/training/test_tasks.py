"""Training masks, keypoints and oriented boxes: Ultralytics' labels and losses, our ruler, and the way to the file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.ops import xyxyxyxy2xywhr

from tests.turned import POSE, TURNED, write_detector, write_turned, write_yolo26
from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.data import load_dataset
from visionlora.detectors.family import StepSample, StepSpec
from visionlora.detectors.ultralytics import adapted, load_base
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.detectors.ultralytics.qat_detector import QatDetector
from visionlora.detectors.ultralytics.sampling import SeededDataset, keypoint_entries, training_label
from visionlora.detectors.ultralytics.squares import SquareDataset
from visionlora.errors import DataError, UsageError
from visionlora.exporting import export, write_graph
from visionlora.fake_quant import fake_quant_spec
from visionlora.int8 import apply_recipe
from visionlora.quantization import calibrate_detector, load_float_detector
from visionlora.tasks import Segment, Task
from visionlora.training import train
from visionlora.workflows.evaluating import evaluate

TRAINED = {"epochs": 1, "imgsz": 96, "batch": 4, "rank": 2, "device": "cpu", "recipe": "near", "quiet": True}


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return a tiny detector and a data set of each task."""
    folder = tmp_path_factory.mktemp("tasks")
    return {
        task.name: (
            write_detector(checkpoint, task, folder / f"{task.name}.pt"),
            write_turned(folder / task.name, task),
        )
        for task in TURNED
    }


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a run of each task, one epoch long."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(*files, folder / name, **TRAINED).path.parent for name, files in made.items()}


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
def test_labels_are_those_that_ultralytics_reads(made, task: Task) -> None:
    data = load_dataset(made[task.name][1], task=task)
    described = {"names": dict(enumerate(data.names)), "channels": 3, **keypoint_entries(data.keypoints)}
    folder = data.yaml_path.parent / "images/train"
    theirs = YOLODataset(str(folder), imgsz=96, task=task.name, data=described, augment=False).labels
    for image, expected in zip(data.split("train"), sorted(theirs, key=lambda label: label["im_file"]), strict=True):
        got = training_label(image, task)
        assert got["im_file"] == expected["im_file"] and np.array_equal(got["cls"], expected["cls"])
        np.testing.assert_allclose(got["bboxes"], expected["bboxes"], atol=1e-5)
        if task == POSE:
            seen = expected["keypoints"][..., 2] > 0
            np.testing.assert_allclose(got["keypoints"][..., :2], expected["keypoints"][..., :2], atol=1e-5)
            assert np.array_equal(got["keypoints"][..., 2] > 0, seen)
        for mine, other in zip(got["segments"], expected["segments"] if task != POSE else [], strict=True):
            rectangles = xyxyxyxy2xywhr(np.stack([mine.reshape(4, 2), other.reshape(4, 2)]) * 96)
            np.testing.assert_allclose(rectangles[0], rectangles[1], atol=0.3)


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
def test_training_samples_hold_what_the_loss_of_the_task_reads(made, task: Task) -> None:
    data = load_dataset(made[task.name][1], task=task)
    hyp = get_cfg(overrides={"imgsz": 96})
    dataset = SeededDataset(
        data.split("train"), task=task, names=data.names, keypoints=data.keypoints, hyp=hyp, imgsz=96, batch=2
    )
    sample = dataset[0]
    objects = len(sample["cls"])
    shapes = {
        "segment": ("masks", (1, 24, 24)),
        "pose": ("keypoints", (objects, 4, 3)),
        "obb": ("bboxes", (objects, 5)),
    }
    field, shape = shapes[task.name]
    assert objects and sample[field].shape == shape and torch.equal(dataset[0][field], sample[field])


def test_validation_squares_hold_labels_where_the_picture_lies(made, tmp_path) -> None:
    for task in TURNED:
        data = load_dataset(made[task.name][1], task=task)
        image = replace(data.split("val")[0], size_wh=(96, 48))
        picture = tmp_path / "wide.png"
        cv2.imwrite(str(picture), cv2.imread(str(image.path))[:48])
        sample = SquareDataset([replace(image, path=picture)], 96, task=task, hyp=get_cfg())[0]
        down = np.array([0, 24])  # gray above and below
        if task == POSE:
            expected = (image.keypoints[..., :2] + down) / 96
            np.testing.assert_allclose(sample["keypoints"][..., :2], expected, atol=1e-5)
        elif isinstance(task, Segment):
            filled = np.zeros((96, 96), dtype=np.uint8)
            for (polygon,) in image.segments:
                cv2.fillPoly(filled, [(polygon + down).astype(int)], 1)
            there = np.asarray(sample["masks"][0]) > 0
            assert (there != (cv2.resize(filled, (24, 24)) > 0)).mean() < 0.05 and there.any()
        else:
            expected = image.obb[:, :2] + down
            np.testing.assert_allclose(sample["bboxes"][:, :2] * 96, expected, atol=0.5)


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
def test_a_task_is_trained_judged_and_written_into_the_adapter(runs, made, task: Task) -> None:
    card = read_adapter_card(runs[task.name] / "adapter.safetensors")
    header = (runs[task.name] / "results.csv").read_text().splitlines()[0]
    own = {"segment": "seg_loss", "pose": "pose_loss", "obb": "angle_loss"}[task.name]
    assert card.sized_task == task and f"train/{own}" in header and f"val/{own}" in header
    network = ULTRALYTICS.open(made[task.name][0], adapter=runs[task.name] / "adapter.safetensors")
    outputs = network(np.zeros((1, 3, 96, 96), dtype=np.float32))
    assert network.task == task and len(outputs) == task.outputs


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
def test_yolo26_is_trained_with_its_own_losses(made, task: Task, tmp_path) -> None:
    base = write_yolo26(task, tmp_path / "base.pt")
    trained = train(base, made[task.name][1], tmp_path / "run", **TRAINED)
    header = (tmp_path / "run/results.csv").read_text().splitlines()[0]
    own = {"segment": "sem_loss", "pose": "rle_loss", "obb": "angle_loss"}[task.name]
    assert f"train/{own}" in header and trained.path.is_file()
    names = [*load_file(trained.path)]
    assert any("one2one_cv4" in name for name in names) and not any("flow_model" in name for name in names)


def test_a_run_of_a_task_goes_on_for_more_epochs(runs, made, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["pose"], run)
    train(*made["pose"], run, **{**TRAINED, "epochs": 2}, resume=True)
    before, rows = ((folder / "results.csv").read_text().splitlines() for folder in (runs["pose"], run))
    assert len(rows) == 3 and rows[:2] == before
    with pytest.raises(UsageError, match="--task"):
        train(*made["pose"], run, **{**TRAINED, "epochs": 3}, task="detect", resume=True)


def test_a_detection_base_is_given_keypoints_of_the_data(checkpoint, made, tmp_path) -> None:
    trained = train(checkpoint, made["pose"][1], tmp_path / "run", **TRAINED, task="pose")
    card = read_adapter_card(trained.path)
    assert card.sized_task == POSE
    with pytest.raises(
        UsageError, match=r"--retention: .* finds keypoints \(keypoints 4, dims 2\), and its base boxes"
    ):
        evaluate([f"{checkpoint}+{trained.path}"], made["pose"][1], retention=made["pose"][1])
    with pytest.raises(DataError, match="kpt_shape"):
        train(checkpoint, made["pose"][1], tmp_path / "other", **TRAINED)
    with pytest.raises(UsageError, match="--task: expected"):
        train(checkpoint, made["pose"][1], tmp_path / "other", **TRAINED, task="sort")


@pytest.mark.parametrize(
    ("name", "how"),
    [("segment", {"method": "conv-adapter"}), ("pose", {"base_precision": "nf4"}), ("obb", {"recipe": "far"})],
    ids=["conv-adapter", "nf4", "far"],
)
def test_other_ways_to_adapt_serve_a_task_too(made, name: str, how: dict[str, str], tmp_path) -> None:
    trained = train(*made[name], tmp_path / "run", **{**TRAINED, **how})
    file = export(made[name][0], tmp_path / "model.onnx", adapter=trained.path)
    assert file.box_error < 0.1 and read_adapter_card(trained.path).sized_task == load_base(made[name][0]).task


def test_what_is_of_another_task_is_refused(made, tmp_path) -> None:
    for name, asked in (("pose", {"copy_paste": 0.5}), ("segment", {"kobj": 2.0}), ("segment", {"angle": 2.0})):
        with pytest.raises(UsageError, match=f"--set {next(iter(asked))}: it"):
            train(*made[name], tmp_path / "run", **TRAINED, hyperparameters=asked)


@torch.no_grad()
@pytest.mark.parametrize("task", TURNED[::2], ids=lambda task: task.name)
def test_what_int8_training_sees_is_what_the_int8_file_computes(made, task: Task, tmp_path) -> None:
    base = load_base(made[task.name][0])
    images = load_dataset(made[task.name][1], task=task).split("train")
    source = load_float_detector(write_graph(base, tmp_path / "float.onnx", image_size=96))
    recipe = calibrate_detector(source, images)
    detector = adapted(base, base.names, AdapterSettings())
    detector.attach()
    spec = fake_quant_spec(source.model.graph, recipe)
    trained = QatDetector(detector.model, onnx.load(source.path).graph, spec).eval()
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    shipped = onnxruntime.InferenceSession(apply_recipe(source.model, recipe).SerializeToString())
    decoded = trained(pixels)[0]
    outputs = decoded if isinstance(decoded, tuple) else (decoded,)
    for got, wanted in zip(outputs, shipped.run(None, {"images": pixels.numpy()}), strict=True):
        apart = np.abs(got.numpy() - wanted)
        assert np.quantile(apart, 0.99) < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("task", TURNED, ids=lambda task: task.name)
def test_steps_of_a_task_are_measured(made, task: Task) -> None:
    base = load_base(made[task.name][0])
    objects = [np.array([[0, 0.5, 0.5, 0.4, 0.3], [1, 0.3, 0.3, 0.2, 0.2]])]
    sample = StepSample(base.names, objects, batch=2, image_size=64, device=torch.device("cpu"))
    *_, (full, adapter) = ULTRALYTICS.measure_steps(base, [StepSpec(), StepSpec(AdapterSettings())], sample, rounds=1)
    assert full.trainable > adapter.trainable > 0 and full.milliseconds and adapter.milliseconds
