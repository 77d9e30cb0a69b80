"""Training a classifier, and the way to its INT8 file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision import transforms
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

import visionlora as vl
from tests.classified import CLASSES, write_classified
from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.torch import load_adapter
from visionlora.data import load_dataset
from visionlora.detectors.family import StepSpec
from visionlora.detectors.ultralytics import adapted, load_base
from visionlora.detectors.ultralytics.augmenting import ClassifiedDataset
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import UsageError
from visionlora.int8.float_model import load_float_model
from visionlora.models import open_network
from visionlora.quantization.sensitivity import prediction_error
from visionlora.tasks import Classify
from visionlora.training.samples import step_sample
from visionlora.vision.inference import placed
from visionlora.vision.preprocess import read_image

TRAINED = {"batch": 4, "rank": 2, "device": "cpu", "recipe": "near", "quiet": True, "lr0": 0.002}


@pytest.fixture(scope="module")
def run(classifier: Path, classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two epochs."""
    return vl.train(classifier, classified, tmp_path_factory.mktemp("runs") / "run", epochs=2, **TRAINED).path.parent


@pytest.fixture(scope="module")
def exported(classifier: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ONNX file of the adapter merged into its base."""
    folder = tmp_path_factory.mktemp("exported")
    merged = vl.merge(classifier, run / "adapter.safetensors", folder / "merged.pt")
    return vl.export(merged.path, folder / "model.onnx").path


def test_a_class_that_the_base_knows_keeps_its_row(classifier: Path) -> None:
    base = load_base(classifier)
    assert (base.task, base.names, base.image_size) == (Classify(), ("red", "stone"), 64)
    before = base.model.model[-1].linear
    made = adapted(base, CLASSES, AdapterSettings())
    after = made.model.model[-1].linear
    assert after.weight.shape == (3, before.in_features)
    assert [layer.name for layer in made.plan.whole] == ["model.5.linear"]
    assert torch.equal(after.weight[2], before.weight[0]) and after.bias[2] == before.bias[0]
    assert torch.equal(before.weight, load_base(classifier).model.model[-1].linear.weight)


def test_samples_are_ultralytics_augmentation_from_their_seed(classified: Path) -> None:
    images = load_dataset(classified, task=Classify()).split("train")
    hyp = get_cfg(overrides={"imgsz": 64})
    dataset = ClassifiedDataset(images, hyp=hyp, seed=3)
    one, again, later = dataset[4], dataset[4], dataset[4 + len(dataset)]
    assert one["img"].shape == (3, 64, 64) and one["cls"] == images[4].class_ids[0]
    assert torch.equal(one["img"], again["img"]) and not torch.equal(one["img"], later["img"])
    assert one["img"].min() >= 0 and one["img"].max() <= 1
    plain = get_cfg(overrides={"imgsz": 64, "scale": 0.0, "fliplr": 0.0, "auto_augment": None, "erasing": 0.0})
    plain.hsv_h = plain.hsv_s = plain.hsv_v = 0.0
    square = ClassifiedDataset(images[:1], hyp=plain)[0]["img"]  # the largest crop of a ratio of at most 4 / 3
    pixels = transforms.ToTensor()(np.ascontiguousarray(read_image(images[0].path)[:, 12:108, ::-1]))
    assert torch.allclose(square.mean((1, 2)), pixels.mean((1, 2)), atol=0.03)


def test_training_learns_and_leaves_the_base_and_the_pictures_alone(
    classifier: Path, classified: Path, run: Path
) -> None:
    card = read_adapter_card(run / "adapter.safetensors")
    assert card.task == "classify" and card.names == CLASSES and card.preprocessing["crop"] == "center"
    assert card.preprocessing["image_size"] == load_base(classifier).image_size == 64
    (row,) = vl.evaluate([f"a={classifier}+{run / 'adapter.safetensors'}"], classified, cache=False).rows
    assert row.scores.map50_95 == pytest.approx(card.scores["metrics/accuracy_top1"], abs=1e-5)
    lines = list(csv.DictReader((run / "results.csv").read_text().splitlines()))
    moved = [name for name, tensor in load_adapter(run / "adapter.safetensors").tensors.items() if tensor.any()]
    assert any(name.endswith(".B") or "lora_B" in name for name in moved) and (run / "curves.png").is_file()
    assert float(lines[-1]["metrics/accuracy_top1"]) == pytest.approx(row.scores.map50_95, abs=1e-4)
    assert {path.suffix for path in classified.rglob("*") if path.is_file()} == {".png"}


def test_a_run_goes_on_where_it_ended(classifier: Path, classified: Path, tmp_path: Path) -> None:
    vl.train(classifier, classified, tmp_path / "run", epochs=1, **TRAINED)
    begun = (tmp_path / "run/results.csv").read_text()
    again = vl.train(classifier, classified, tmp_path / "run", epochs=2, resume=True, **TRAINED)
    rows = (tmp_path / "run/results.csv").read_text()
    assert rows.startswith(begun) and len(rows.splitlines()) == 3
    assert again.epoch <= 2 and "val top-1" in str(again)


def test_what_has_no_effect_or_is_not_there_yet_is_refused(
    classifier: Path, checkpoint: Path, classified: Path, surface: Path, tmp_path: Path
) -> None:
    for asked, told in (
        ({"hyperparameters": {"mosaic": 0.5}}, "mosaic: it is of detectors"),
        ({"hyperparameters": {"scale": [0.5, 1.5]}}, "scale: expected one number"),
        ({"quantize": "int8"}, "--quantize: for detectors alone yet"),
        ({"activation": "relu"}, "--activation: for detectors alone yet"),
        ({"task": "detect"}, "--task detect"),
    ):
        with pytest.raises(UsageError, match=told):
            vl.train(classifier, classified, tmp_path / "run", epochs=1, **{**TRAINED, **asked})
    with pytest.raises(UsageError, match="--task classify: expected a base of that task, got one of task detect"):
        vl.train(checkpoint, surface, tmp_path / "run", epochs=1, **{**TRAINED, "task": "classify"})
    with pytest.raises(UsageError, match="erasing: it changes whole pictures"):
        vl.train(checkpoint, surface, tmp_path / "run", epochs=1, **{**TRAINED, "hyperparameters": {"erasing": 0.1}})
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_ways_to_train_a_classifier_are_measured(classifier: Path, classified: Path) -> None:
    base, images = load_base(classifier), load_dataset(classified, task=Classify()).split("train")
    sample = step_sample(CLASSES, images, batch=2, image_size=64, device=torch.device("cpu"))
    steps = [
        *ULTRALYTICS.fine_tunings(base).values(),
        StepSpec(AdapterSettings()),
        StepSpec(AdapterSettings(), lean=True),
    ]
    *_, costs = ULTRALYTICS.measure_steps(base, steps, sample, rounds=1)
    assert len(costs) == 4 and all(cost.milliseconds for cost in costs)  # none with ten frozen modules of six
    assert costs[1].trainable < costs[0].trainable and costs[3].memory < costs[2].memory


def test_files_say_what_torch_says_and_ultralytics_reads_them(exported: Path, classified: Path) -> None:
    merged = exported.with_name("merged.pt")
    picture = next(classified.glob("val/red/*.png"))
    torch_says, onnx_says = (
        network(placed(Classify(), read_image(picture), 64)[0][None])[0]
        for network in (ULTRALYTICS.open(merged), open_network(exported))
    )
    assert onnx_says.shape == (1, 3) and onnx_says.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(onnx_says, torch_says, atol=1e-5)
    for file in (merged, exported):
        theirs = YOLO(file, task="classify")(str(picture), imgsz=64, verbose=False)[0].probs.data.cpu().numpy()
        np.testing.assert_allclose(theirs, onnx_says[0], atol=2e-3)
    found = vl.Detector(exported).predict(picture)
    assert isinstance(found, vl.Classification) and found.names == CLASSES and found.timing is not None
    np.testing.assert_allclose(found.probabilities, onnx_says[0], atol=1e-6)
    with pytest.raises(UsageError, match="probabilities of all classes"):
        vl.Detector(exported, confidence=0.5)
    with pytest.raises(UsageError, match="probabilities of all classes"):
        vl.Detector(exported).predict(picture, confidence=0.5)


def test_the_last_layer_becomes_a_convolution_of_the_same_sums(exported: Path) -> None:
    graph = load_float_model(exported, Classify()).graph
    assert [node.op_type for node in graph.node][-4:] == ["GlobalAveragePool", "Conv", "Flatten", "Softmax"]
    model = load_float_model(exported, Classify())
    onnx.checker.check_model(model)
    inputs = {"images": np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)}
    was, now = (
        onnxruntime.InferenceSession(content).run(None, inputs)[0]
        for content in (onnx.load(exported).SerializeToString(), model.SerializeToString())
    )
    np.testing.assert_allclose(now, was, atol=1e-5)


def test_int8_files_are_held_to_top_1(exported: Path, classified: Path, tmp_path: Path) -> None:
    made = vl.quantize(exported, classified, tmp_path / "model.int8.onnx", images=12, max_drop=0.5)
    assert made.report is not None and made.report.sentence.startswith("int8 against float: top-1")
    assert made.int8_convs == made.convs == 10  # 9 and the linear layer
    before, after = vl.evaluate([exported, made.path], classified).rows
    assert after.scores.map50_95 >= before.scores.map50_95 - 0.5 and after.kind == "int8"
    with pytest.raises(UsageError, match="--thresholds: for detectors alone"):
        vl.quantize(exported, classified, tmp_path / "b.onnx", thresholds="recall")


def test_a_patched_base_is_the_exported_adapter(classifier: Path, run: Path, exported: Path, tmp_path: Path) -> None:
    base = vl.export(classifier, tmp_path / "base.onnx")
    made = vl.patch(base.path, run / "adapter.safetensors", tmp_path / "patched.onnx")
    picture = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    patched, expected = (open_network(path)(picture)[0] for path in (made.path, exported))
    assert made.names == CLASSES and np.array_equal(patched, expected)


def test_errors_of_groups_are_of_each_class() -> None:
    wanted, got = (np.array([values], dtype=np.float32) for values in ([0.8, 0.2], [0.6, 0.2]))
    assert prediction_error(Classify(), [(wanted,)], [(got,)]) == pytest.approx([0.04, 0.0], abs=1e-6)


def test_adapt_goes_the_whole_way(classifier: Path, tmp_path: Path, monkeypatch) -> None:
    data = write_classified(tmp_path / "data", {"train": 4, "val": 3})
    made = vl.adapt(classifier, data, tmp_path / "run", epochs=1, images=8, **TRAINED)
    assert [row.label for row in made.report.rows] == ["base", "adapter", "merged", "onnx", "int8"]
    assert (tmp_path / "run/report.html").is_file() and "top-1" in repr(made)
