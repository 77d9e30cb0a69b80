from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from visionlora.data import LabelledImage
from visionlora.reporting import Column, before_after, representative_images, write_report
from visionlora.reporting.chart import write_chart
from visionlora.reporting.pictures import CELL, GAP, HEADER, MIN_ROW
from visionlora.reporting.writing import ReportInputs
from visionlora.scoring.coco import ClassCount
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

NOTHING = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64))


def test_representative_images_show_every_class_and_only_then_repeat(images) -> None:
    chosen = representative_images(images, 3)

    assert [image.path.name for image in chosen] == ["0002.png", "0001.png", "0005.png"]


def test_representative_images_are_those_with_objects_while_there_are_any(images) -> None:
    assert [len(image.class_ids) > 0 for image in representative_images(images, 6)] == [True] * 5 + [False]
    assert len(representative_images(images, 99)) == 6


def test_sheet_has_a_row_an_image_and_a_column_a_model(images, names, perfect) -> None:
    found = [perfect(image) for image in images[:2]]
    columns = [Column("before", names, [NOTHING] * 2), Column("after", names, found)]

    sheet = before_after(images[:2], names, columns, task=DETECT)

    assert sheet.shape == (HEADER + 2 * (GAP + CELL), 3 * CELL + 2 * GAP, 3)
    assert sheet.dtype == np.uint8


def test_sheet_is_the_same_every_time(images, names, perfect) -> None:
    columns = [Column("after", names, [perfect(image) for image in images])]

    one, other = (before_after(images, names, columns, task=DETECT) for _ in range(2))
    assert np.array_equal(one, other)


def test_cells_differ_where_a_model_finds_nothing(images, names, perfect) -> None:
    columns = [Column("none", names, [NOTHING]), Column("all", names, [perfect(images[2])])]
    sheet = before_after(images[2:3], names, columns, task=DETECT)

    truth, none, found = (sheet[HEADER + GAP :, start : start + CELL] for start in range(0, 3 * CELL, CELL + GAP))
    assert not np.array_equal(truth, none)
    assert not np.array_equal(none, found)


@pytest.mark.parametrize("size_wh", [(20, 30), (200, 200), (640, 480), (640, 50), (1, 1)], ids=str)
def test_pictures_of_any_size_fill_their_column(tmp_path, size_wh) -> None:
    width, height = size_wh
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((height, width, 3), 200, dtype=np.uint8))
    box = np.array([[0, 0, width, height]], dtype=np.float32)
    image = LabelledImage(path=path, size_wh=size_wh, boxes_xyxy=box, class_ids=np.array([0]))

    sheet = before_after([image], ["a class with quite a long name, longer than a cell is wide"], [], task=DETECT)

    assert sheet.shape == (HEADER + GAP + max(round(CELL * height / max(size_wh)), MIN_ROW), CELL, 3)
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 3


def test_chart_is_a_picture(tmp_path, report) -> None:
    write_chart(report, tmp_path / "chart.png")

    height, width, _ = cv2.imread(str(tmp_path / "chart.png")).shape
    assert width == 1210
    assert 250 < height < 1000


def test_chart_of_many_classes_stays_a_picture(tmp_path, report) -> None:
    row = report.rows[1]
    names = tuple(f"class {index}" for index in range(80))
    one = row.scores.per_class[0]
    per_class = tuple(dataclasses.replace(one, name=name, objects=index) for index, name in enumerate(names))
    scores = dataclasses.replace(row.scores, per_class=per_class)
    many = dataclasses.replace(
        report,
        rows=(dataclasses.replace(row, scores=scores, classes=names),) * 5,
        data=dataclasses.replace(report.data, classes=tuple(ClassCount(name, 1, 1) for name in names)),
    )

    write_chart(many, tmp_path / "chart.png")

    assert cv2.imread(str(tmp_path / "chart.png")).shape[0] < 2500


def test_chart_of_models_without_scores_is_a_picture(tmp_path, report) -> None:
    write_chart(dataclasses.replace(report, rows=report.rows[3:]), tmp_path / "chart.png")

    assert cv2.imread(str(tmp_path / "chart.png")) is not None


def test_written_report_shows_its_sheet(tmp_path, report, images, names, perfect) -> None:
    sheet = before_after(images[:1], names, [Column("after", names, [perfect(images[0])])], task=DETECT)

    evidence = ReportInputs(tuple(images), ("0" * 64,) * len(images), (None,) * len(report.rows), sheet)

    write_report(report, tmp_path, evidence=evidence)

    assert np.array_equal(cv2.imread(str(tmp_path / "report_detections.png")), sheet)
    assert "](report_detections.png)" in (tmp_path / "report.md").read_text()
    write_report(report, tmp_path, overwrite=True)
    assert "](report_detections.png)" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "report_detections.png").exists()
