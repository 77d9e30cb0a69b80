"""Classification: folders of classes to numbers, pages, files and pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from ultralytics import YOLO

import visionlora as vl
from tests.classified import CLASSES, write_classified, write_classifier
from tests.reporting.conftest import short_pauses
from visionlora import cli
from visionlora.data import LabelledImage, load_dataset
from visionlora.errors import DataError, UsageError
from visionlora.reporting import read_report
from visionlora.scoring.bootstrap import draw_images, score_draws
from visionlora.scoring.classification import classification_scores, confusion_of
from visionlora.tasks import Classify
from visionlora.vision.classification import Classification
from visionlora.vision.detections import Detections
from visionlora.vision.preprocess import center_crop_pixels

__all__ = ["short_pauses"]
NAMES = ("ant", "bee", "cow", "dog", "elk", "fox")


@pytest.mark.parametrize("shape", [(64, 64), (10, 400), (37, 91), (224, 225), (480, 640), (333, 1000)], ids=str)
@pytest.mark.parametrize("side", [64, 224])
def test_pictures_are_placed_as_torchvision_does_with_pillow(shape: tuple[int, int], side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])(Image.fromarray(pixels))
    square, placement = center_crop_pixels(pixels, side)
    assert np.array_equal(square, np.asarray(theirs))
    middle = placement.points_to_original([[side / 2, side / 2]])[0]
    assert np.allclose(middle, [shape[1] / 2, shape[0] / 2], atol=max(1, min(shape) / side))


def test_a_classification_says_its_best_classes() -> None:
    raw = np.array([0.05, 0.1, 0.5, 0.05, 0.1, 0.2], dtype=np.float32)
    found = Classify().decode([raw], nms=True)
    found = Classification(found.boxes_xyxy, found.scores, found.class_ids, names=NAMES)
    assert (found.top1, found.top5, found.labels[0]) == (2, [2, 5, 1, 4, 0], "cow")
    assert np.array_equal(found.probabilities, raw)
    assert [entry["name"] for entry in found.to_dict()["top5"]] == ["cow", "fox", "bee", "elk", "ant"]
    assert found.to_dict()["top5"][0] == {"class_id": 2, "name": "cow", "score": 0.5}
    assert found.summary.startswith("cow 0.50, fox 0.20") and "cow" in found._repr_html_()
    assert len(found.top(2)) == 2 and found.top(2).labels == ["cow", "fox"]
    with pytest.raises(UsageError, match="no boxes"):
        found.to_coco(1)


@pytest.mark.parametrize("size", [(20, 20), (200, 300)])
def test_the_best_classes_are_drawn_and_the_picture_stays(size: tuple[int, int]) -> None:
    found = Classify().decode([np.full(6, 1 / 6, dtype=np.float32)], nms=True)
    picture = np.zeros((*size, 3), dtype=np.uint8)
    drawn = found.draw(picture)
    assert drawn.any() and not picture.any() and not drawn[:, 150:].any()


def _says(*orders: list[int]) -> list[Detections]:
    return [Detections([[0, 0, 4, 4]] * len(ids), np.linspace(0.9, 0.1, len(ids)), ids) for ids in orders]


def _labelled(*class_ids: int) -> list[LabelledImage]:
    return [LabelledImage(Path(f"{i}.jpg"), (4, 4), [[0, 0, 4, 4]], [class_id]) for i, class_id in enumerate(class_ids)]


def test_accuracy_is_the_share_of_pictures_and_of_each_class() -> None:
    images = _labelled(0, 0, 0, 1)
    # right; right among the first five; not among them; a class that the data set does not have first
    found = _says([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 0, 1], [5, 4, 3, 2, 1, 0], [-1, 1, 0, 2, 3, 4])
    scores, matches = classification_scores(found, images, NAMES, classes=NAMES)
    assert (scores.map50_95, scores.map50) == (0.25, 0.75)
    assert [(one.ap50_95, one.ap50, one.images) for one in scores.per_class[:3]] == [
        (pytest.approx(1 / 3), pytest.approx(2 / 3), 3),
        (0.0, 1.0, 1),
        (None, None, 0),
    ]
    part, _ = classification_scores(found, images, NAMES, classes=("bee",))
    assert (part.map50_95, part.map50, len(part.per_class)) == (0.0, 1.0, 1)
    assert scores.mean_over(NAMES) == pytest.approx(0.25)
    cells, mistakes = confusion_of(found, images, NAMES, classes=NAMES)
    assert {(cell.truth, cell.found): cell.count for cell in cells} == {
        ("ant", "ant"): 1,
        ("ant", "fox"): 2,
        ("bee", None): 1,
    }
    assert [(one.image, one.truth, one.found) for one in mistakes][:1] == [(1, "ant", "fox")]
    weights = np.array([[1, 1, 1, 1], [0, 0, 2, 2], [4, 0, 0, 0], [1, 3, 0, 0]])
    draws = score_draws(matches, weights, pooled=True)
    assert draws.mean(draws.ap50_95).tolist() == [0.25, 0.0, 1.0, 0.25]
    assert draws.mean(draws.ap50).tolist() == [0.75, 0.5, 1.0, 1.0]
    assert np.isnan(draws.ap50_95[2, 1]) and draws.ap50_95[1, 0] == 0


def test_draws_of_pictures_have_the_spread_of_a_binomial() -> None:
    right = np.random.default_rng(4).random(400) < 0.7  # another stream than that of the draws
    found = _says(*([0, 1] if one else [1, 0] for one in right))
    scores, matches = classification_scores(found, _labelled(*[0] * 400), NAMES[:2], classes=NAMES[:2])
    draws = score_draws(matches, draw_images(400), pooled=True)
    spread = draws.mean(draws.ap50_95).std()
    assert spread == pytest.approx((scores.map50_95 * (1 - scores.map50_95) / 400) ** 0.5, rel=0.1)


def test_folders_are_classes_in_ultralytics_order(classified: Path) -> None:
    dataset = load_dataset(classified, task=Classify())
    assert dataset.names == CLASSES and dataset.count_objects("val") == {"blue": 4, "green": 4, "red": 4}
    image = dataset.split("train")[0]
    assert (image.path.parent.name, image.class_ids.tolist()) == ("blue", [0])
    assert image.boxes_xyxy.tolist() == [[0, 0, 120, 72]]
    assert not list(classified.rglob("*.cache"))


def test_test_is_taken_where_there_is_no_val(tmp_path: Path, caplog) -> None:
    folder = write_classified(tmp_path / "data", {"train": 1, "test": 2})
    assert len(load_dataset(folder, task=Classify()).split("val")) == 6
    assert "has no val: its test is taken" in caplog.text


def test_all_that_is_wrong_with_folders_is_told_at_once(tmp_path: Path) -> None:
    folder = write_classified(tmp_path / "data", {"train": 1, "val": 1})
    (folder / "train/empty").mkdir()
    os.rename(folder / "val/red", folder / "val/rot")
    (folder / "train/blue/deep").mkdir()
    os.rename(folder / "train/blue/0.png", folder / "train/blue/deep/0.png")
    (folder / "val/loose.png").write_bytes((folder / "val/blue/0.png").read_bytes())
    with pytest.raises(DataError) as caught:
        load_dataset(folder, task=Classify())
    for part in (
        "train/blue/deep: expected pictures in the folder of their class, got 1 in a folder inside it",
        "train/empty: expected pictures of this class, got none",
        "val/loose.png: expected pictures in folders of their class",
        "val/rot: expected a class that train has, got another; train has blue, empty, green, red",
    ):
        assert part in str(caught.value)


def test_one_class_alone_is_judged_but_not_trained(tmp_path: Path) -> None:
    folder = write_classified(tmp_path / "data", {"train": 1, "val": 1}, classes=("red",))
    assert load_dataset(folder, splits=("val",), task=Classify()).names == ("red",)
    with pytest.raises(DataError, match=r"data/train: expected folders of at least two classes, got 'red' alone"):
        load_dataset(folder, task=Classify())


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    folder = write_classified(tmp_path / "data", {"train": 2, "val": 1})
    (folder / "train/red/0.png").write_bytes(b"")
    (folder / "train/blue/1.png").write_bytes((folder / "train/blue/1.png").read_bytes()[:99])
    with pytest.raises(DataError, match=r"train/blue/1\.png(.|\n)*train/red/0\.png"):
        load_dataset(folder, task=Classify())


def test_folders_are_for_classifiers_and_files_for_detectors(
    classified: Path, surface: Path, classifier: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="for a model of task detect, got a folder of classes"):
        vl.evaluate([checkpoint], classified)
    with pytest.raises(DataError, match="expected a folder with train/CLASS"):
        vl.evaluate([classifier], surface)
    with pytest.raises(DataError, match=r"for a classifier a folder with train/CLASS.*, got no folder in it"):
        vl.evaluate([classifier], tmp_path)
    (tmp_path / "red").mkdir()
    with pytest.raises(DataError, match=r"got the folders \['red'\]; check --data, or sort the pictures so"):
        vl.evaluate([classifier], tmp_path)
    with pytest.raises(UsageError, match="one task"):
        vl.evaluate([classifier, checkpoint], classified)
    with pytest.raises(UsageError, match="--min-map50 and --retention: for detectors alone"):
        vl.evaluate([classifier], classified, min_map50=0.5, retention=surface)


def test_an_exported_classifier_is_bundled(classifier: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["export", "--model", str(classifier), "--out", str(tmp_path / "model.onnx")]) == 0
    assert "checked against torch: scores within" in capsys.readouterr().out
    assert vl.bundle(tmp_path / "model.onnx", tmp_path / "line.zip").path.is_file()


@pytest.fixture(scope="module")
def judged(classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report on two classifiers that know all classes."""
    folder = tmp_path_factory.mktemp("judged")
    models = [write_classifier(folder / "a.pt", CLASSES), write_classifier(folder / "b.pt", CLASSES[::-1])]
    vl.evaluate(models, classified, out=folder / "report", html=True, max_drop=1.0, max_class_drop=1.0)
    return folder


def test_the_ruler_is_ultralytics(judged: Path, classified: Path, tmp_path: Path) -> None:
    copy = write_classified(tmp_path / "data", {"train": 6, "val": 4})  # Ultralytics writes caches
    rows = read_report(judged / "report/report.json").rows
    for row in rows:
        model = YOLO(judged / row.label, task="classify")
        theirs = model.val(data=str(copy), imgsz=64, workers=0, plots=False, verbose=False, project=str(tmp_path))
        assert (row.scores.map50_95, row.scores.map50) == pytest.approx((theirs.top1, theirs.top5))
    assert len({row.scores.map50_95 for row in rows}) == 2  # or it proved little


def test_a_report_of_classifiers_says_accuracies_and_nothing_of_boxes(judged: Path) -> None:
    fields = json.loads((judged / "report/report.json").read_text(encoding="utf-8"))
    row = fields["rows"][1]
    assert fields["task"] == "classify" and {"top1", "top5", "interval"} <= row["scores"].keys()
    assert {"top1", "top5"} <= row["differences"][0].keys() and row["scores"]["per_class"][0]["class_top1"] is not None
    assert sum(cell["count"] for cell in row["confusion"]) == 12
    report = read_report(judged / "report/report.json")
    assert report.rows[1].scores.pooled and report.passed
    page, text = ((judged / f"report/report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for shown in (page, text, str(report), repr(report)):
        assert "top-1" in shown
        for word in ("mAP", "AP50", "letterbox", "IoU", "false alarm", "average recall", "score threshold"):
            assert word not in shown
    assert "Most confident mistakes" in page and "taken for" in page and "taken for" in text


def test_two_reports_of_classifiers_are_compared_with_intervals(judged: Path) -> None:
    made = vl.compare(judged / "report", judged / "report")
    change = made.models[0].difference.map50_95
    assert change.difference == 0 and (change.interval.low, change.interval.high) == (0, 0)
    assert "top-1 before" in made.text and "mAP" not in made.text


def test_pictures_are_classified_into_files(classifier: Path, classified: Path, tmp_path: Path, capsys) -> None:
    source = classified / "val/red"
    formats = ["--formats", "json", "jsonl", "csv", "images"]
    assert (
        cli.main(["predict", "--model", str(classifier), "--source", str(source), "--out", str(tmp_path), *formats])
        == 0
    )
    assert "4 images classified" in capsys.readouterr().out
    images = json.loads((tmp_path / "detections.json").read_text())["images"]
    assert len(images) == 4 and {entry["name"] for entry in images[0]["top5"]} == {"red", "stone"}
    assert (tmp_path / "detections.csv").read_text().splitlines()[1].endswith(",,,,")
    drawn = cv2.imread(str(tmp_path / "0.png"))
    assert drawn.shape == (72, 120, 3) and not np.array_equal(drawn, cv2.imread(str(source / "0.png")))
    with pytest.raises(UsageError, match="it classifies pictures"):
        vl.predict(classifier, source, tmp_path / "b", conf=0.1)
    with pytest.raises(UsageError, match="coco and labels hold boxes"):
        vl.predict(classifier, source, tmp_path / "b", formats=["coco", "labels"])
