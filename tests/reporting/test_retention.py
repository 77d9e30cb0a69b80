"""What is forgotten, in numbers and in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reporting.cases import EMPTY, random_case
from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.errors import DataError
from visionlora.reporting.retention import RetentionInput, check_base, measure_retention
from visionlora.scoring.bootstrap import draw_images
from visionlora.scoring.coco import ClassCount
from visionlora.scoring.detect_split import SplitDetections
from visionlora.scoring.model_scores import judge
from visionlora.scoring.split import DataUsed
from visionlora.tasks import DETECT
from visionlora.workflows.evaluating import evaluate

NAMES = ("dog", "cat", "cow")
DATA = DataUsed("coco.yaml", "0" * 64, "val", 40, tuple(ClassCount(name, 20, 30) for name in NAMES))
NO_CATS = ClassCount("cat", 0, 0)
IMAGES, DETECTIONS = random_case(0, images=40, classes=3, detections=8, noise=3)


def _model(label: str, detections=DETECTIONS, classes=NAMES) -> RetentionInput:
    found = SplitDetections(tuple(detections), tuple(classes), task=DETECT)
    weights = draw_images(40, draws=100)
    return RetentionInput(label, found, judge(found, IMAGES, NAMES, weights=weights, confidence=0.25))


def test_model_that_finds_the_same_is_unchanged_bit_for_bit() -> None:
    row = measure_retention([_model("base"), _model("adapter switched off")], DATA).rows[0]

    assert row.unchanged and row.retention == pytest.approx(1)
    assert "adapter switched off: unchanged bit for bit." in row_sentence(_model("adapter switched off"))


def row_sentence(model: RetentionInput) -> str:
    return measure_retention([_model("base"), model], DATA).sentence


def test_smallest_change_is_seen() -> None:
    moved = list(DETECTIONS)
    index = next(i for i, one in enumerate(moved) if len(one))
    boxes = moved[index].boxes_xyxy.copy()
    boxes[0, 0] = np.nextafter(boxes[0, 0], np.float32(1e9))
    moved[index] = type(moved[index])(boxes, moved[index].scores, moved[index].class_ids)

    assert not measure_retention([_model("base"), _model("after", moved)], DATA).rows[0].unchanged


def test_lost_classes_count_zero_and_the_rest_is_compared_alone() -> None:
    base, part = _model("base"), _model("merged", classes=("cat",))

    row = measure_retention([base, part], DATA).rows[0]

    cat = base.judgement.scores.per_class[1].ap50_95
    assert (row.known, row.map50_95) == (1, pytest.approx(cat / 3))
    assert row.retention == pytest.approx(cat / 3 / base.judgement.scores.map50_95)
    assert row.shared.difference == pytest.approx(0)
    assert "merged: forgets" in row_sentence(part) and "knows 1 of 3 classes, on those the same" in row_sentence(part)


def test_model_with_other_classes_forgets_all() -> None:
    stranger = _model("merged", [EMPTY] * 40, ())

    assert measure_retention([_model("base"), stranger], DATA).rows[0].retention == 0
    assert row_sentence(stranger).endswith("merged: forgets all 3 classes.")


def test_worse_model_forgets_what_its_score_lost() -> None:
    worse = _model("tuned", random_case(0, images=40, classes=3, detections=8, noise=9)[1])

    row = measure_retention([_model("base"), worse], DATA).rows[0]

    assert row.shared.measurable and 0 < row.retention < 1
    assert f"tuned: forgets {-row.shared.difference:.3f} (" in row_sentence(worse)


def test_base_without_a_class_of_the_set_is_refused() -> None:
    with pytest.raises(DataError, match="give the base as the first --model"):
        measure_retention([_model("base", [EMPTY] * 40, ()), _model("b")], DATA)
    with pytest.raises(DataError, match="got none of 3"):
        check_base("base", ["cat"], replace(DATA, classes=(ClassCount("dog", 1, 1), *DATA.classes[2:], NO_CATS)))


@pytest.mark.slow
def test_real_adapter_switched_off_is_its_base(checkpoint: Path, adapter: Path, surface: Path, tmp_path: Path) -> None:
    shapes = write_dataset(draw_shapes, SHAPE_NAMES, tmp_path, counts={"train": 1, "val": 30}, size=96, seed=7)

    report = evaluate(
        [f"base={checkpoint}", f"on={checkpoint}+{adapter}"], surface, imgsz=96, retention=shapes, cache=False
    )

    on, off = report.retention.rows
    assert (on.label, off.label) == ("on", "on switched off")
    assert off.unchanged and report.retention.map50_95 > 0.1
    assert not on.unchanged and on.known == 0 and on.map50_95 == 0
    assert report.retention.sentence.endswith("on: forgets all 14 classes; on switched off: unchanged bit for bit.")
