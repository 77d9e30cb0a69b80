"""The model card is true, and the hub's own library reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from visionlora.adapters import MAP50_95
from visionlora.cards import preprocessing_card
from visionlora.publishing.card import model_card
from visionlora.publishing.files import KNOWN, AdapterFiles, read_files
from visionlora.reporting import report_files
from visionlora.training.run_folder import RunFolder
from visionlora.vision.preprocess import CENTER_CROP


def read(folder: Path, *names: str) -> AdapterFiles:
    return read_files({name: folder / name for name in names or KNOWN if (folder / name).is_file()})


def metadata_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_library_of_the_hub_reads_the_metadata(run: Path) -> None:
    files = read(run)
    data = ModelCard(model_card(files, "owner/steel", licence="mit")).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "visionlora", "object-detection")
    assert data.model_name == "steel" and files.row is not None and files.row.scores is not None
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found["mAP50-95"] == pytest.approx(files.row.scores.map50_95, abs=1e-5) and set(found) >= {"mAP50", "mAP75"}


def test_a_card_shows_the_table_and_the_pictures_of_its_report(run: Path) -> None:
    files = read(run)
    text = model_card(files, "owner/steel", licence="mit")
    assert str(files.report) in text and "](report_scores.png)" in text and "](report_detections.png)" in text
    assert "report_detections" not in model_card(read(run, "adapter.safetensors", "report.json"), "o/n", licence="mit")


def test_a_card_without_a_report_says_what_training_measured(run: Path) -> None:
    files = read(run, "adapter.safetensors")
    text = model_card(files, "owner/steel", licence="mit")
    assert f"mAP50-95 {files.card.scores[MAP50_95]:.3f}" in text and "model-index" not in metadata_of(text)


def test_a_card_names_no_folder_of_its_maker(run: Path, surface: Path) -> None:
    assert str(surface.parent) not in model_card(read(run), "owner/steel", licence="mit")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("yolo11n.pt", "Ultralytics/YOLO11"),
        ("yolov8x.pt", "Ultralytics/YOLOv8"),
        ("yolov5s6u.pt", "Ultralytics/YOLOv5"),
        ("yolo11n-seg.pt", None),
        ("best.pt", None),
    ],
)
def test_a_base_is_named_where_its_file_has_the_name_of_a_release(name: str, base: str | None, run: Path) -> None:
    files = read(run, "adapter.safetensors")
    files = replace(files, card=replace(files.card, base={**files.card.base, "name": name}))
    assert metadata_of(model_card(files, "o/n", licence="mit")).get("base_model") == base


def test_a_classifier_has_accuracies_and_its_own_preprocessing(run: Path) -> None:
    files = read(run, "adapter.safetensors")
    scores = {"metrics/accuracy_top1": 0.75, "metrics/accuracy_top5": 1.0}
    card = replace(files.card, task="classify", preprocessing=preprocessing_card(224, CENTER_CROP), scores=scores)
    text = model_card(replace(files, card=card), "o/n", licence="mit")
    assert metadata_of(text)["pipeline_tag"] == "image-classification"
    assert "makes a classifier of" in text and "detector" not in text
    assert "top-1 0.750, top-5 1.000" in text and "scaled to 224 pixels and the center cut out" in text


def test_names_of_a_hostile_file_stay_text(run: Path) -> None:
    files = read(run)
    evil = "x`\n---\nlicense: evil\n---\n<script>"
    card = replace(files.card, names=(evil,), version=evil, base={**files.card.base, "name": evil, "family": evil})
    report = replace(files.report, data=replace(files.report.data, path=f"{evil}/data.yaml", split=evil))
    text = model_card(replace(files, card=card, report=report), "owner/steel", licence="mit")
    assert metadata_of(text)["license"] == "mit" and ModelCard(text).data.license == "mit"
    assert "\n<script>" not in text and "--model base.pt+hf://owner/steel" in text


def test_files_have_the_names_that_a_run_gives_them() -> None:
    folder = RunFolder(Path("run"))
    assert {folder.adapter.name, folder.last.curves.name} < set(KNOWN)
    assert {name for name in KNOWN if name.startswith("report")} <= {path.name for path in report_files("out")}
