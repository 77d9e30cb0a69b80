from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionlora.data import LabelledImage, to_coco
from visionlora.errors import UsageError

IMAGES = (
    LabelledImage(Path("d/a.jpg"), (64, 48), np.array([[8, 8, 24, 40], [0, 0, 64, 48]]), np.array([1, 0])),
    LabelledImage(Path("d/b.jpg"), (32, 32), np.zeros((0, 4)), np.zeros(0)),
    LabelledImage(Path("d/c.jpg"), (32, 16), np.array([[1.5, 2.5, 30, 15]]), np.array([0])),
)


def _average_precision(truth: dict, detections: list[dict]) -> float:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_ids_boxes_and_areas_are_those_of_coco() -> None:
    truth = to_coco(IMAGES, ["pit", "scratch"])

    assert truth["categories"] == [{"id": 0, "name": "pit"}, {"id": 1, "name": "scratch"}]
    assert truth["images"][2] == {"id": 3, "file_name": "c.jpg", "width": 32, "height": 16}
    assert [annotation["id"] for annotation in truth["annotations"]] == [1, 2, 3]
    assert truth["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [8.0, 8.0, 16.0, 32.0], "area": 512.0, "iscrowd": 0,
    }  # fmt: skip
    assert truth["annotations"][2]["bbox"] == [1.5, 2.5, 28.5, 12.5]


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (40, 0.0)], ids=["perfect", "beside"])
def test_pycocotools_reads_the_ground_truth(shift: float, expected: float) -> None:
    truth = to_coco(IMAGES, ["pit", "scratch"])
    detections = [
        {**annotation, "bbox": [annotation["bbox"][0] + shift * 2, *annotation["bbox"][1:]], "score": 0.9}
        for annotation in to_coco(IMAGES, ["pit", "scratch"])["annotations"]
    ]

    assert _average_precision(truth, detections) == pytest.approx(expected)


def test_a_class_id_without_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a\.jpg: expected class ids from 0 to 0, got 1"):
        to_coco(IMAGES, ["pit"])
