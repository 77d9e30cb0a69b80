"""A COCO ground truth gives the images, boxes and crowds that it holds, and one error for all that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionlora.data import content_hash, load_coco, to_coco
from visionlora.errors import DataError


def _write(folder: Path, annotations: list[dict], *, images: str = "images", name: str = "a.png") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / images / name), np.zeros((48, 64, 3), dtype=np.uint8))
    fields = {
        "images": [{"id": 7, "file_name": name, "width": 64, "height": 48}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "pit"}, {"id": 3, "name": "scratch"}],
    }
    path = folder / "annotations" / "val.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def _one(box, category: int = 9, **more) -> dict:
    return {"id": 1, "image_id": 7, "category_id": category, "bbox": box, **more}


def test_boxes_classes_and_crowds_are_read(tmp_path) -> None:
    annotations = [_one([4, 6, 10, 20]), _one([0, 0, 30, 30], 3, iscrowd=1), _one([50, 40, 30, 30], 3, ignore=1)]

    dataset = load_coco(_write(tmp_path, annotations))

    (image,) = dataset.split("val")
    assert dataset.names == ("scratch", "pit") and image.class_ids.tolist() == [1, 0, 0]
    assert image.boxes_xyxy.tolist() == [[4, 6, 14, 26], [0, 0, 30, 30], [50, 40, 64, 48]]
    assert image.is_crowd.tolist() == [False, True, True] and image.size_wh == (64, 48)


def test_image_without_annotations_has_no_objects(tmp_path) -> None:
    assert len(load_coco(_write(tmp_path, [])).split("val")[0].class_ids) == 0


@pytest.mark.parametrize("place", ["annotations", "annotations/images", ".", "images"])
def test_pictures_are_found_beside_the_file(tmp_path, place) -> None:
    assert load_coco(_write(tmp_path, [], images=place)).split("val")[0].path.is_file()


def test_what_was_written_is_read_back(tmp_path) -> None:
    first = load_coco(_write(tmp_path, [_one([4, 6, 10, 20]), _one([0, 0, 30, 30], 3, iscrowd=1)]))
    again = tmp_path / "annotations" / "again.json"
    again.write_text(json.dumps(to_coco(first.split("val"), first.names)))

    second = load_coco(again)

    assert second.names == first.names and content_hash(second.split("val")) == content_hash(first.split("val"))


def test_crowd_is_part_of_the_content(tmp_path) -> None:
    plain = load_coco(_write(tmp_path, [_one([4, 6, 10, 20])])).split("val")
    crowd = load_coco(_write(tmp_path, [_one([4, 6, 10, 20], iscrowd=1)])).split("val")

    assert content_hash(plain) != content_hash(crowd)


def test_all_problems_are_listed_at_once(tmp_path) -> None:
    wrong = [_one([4, 6, 0, 20]), _one([1, 2, 3]), _one([1, 1, 5, 5], 4), {**_one([1, 1, 5, 5]), "image_id": 8}]

    with pytest.raises(DataError) as raised:
        load_coco(_write(tmp_path, wrong))

    lines = str(raised.value).splitlines()
    assert len(lines) == 4 and "size above 0" in lines[0] and "category_id among [3, 9], got 4" in lines[2]
    assert "1 images that are not listed" in lines[3]


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}']
)
def test_other_files_are_refused(tmp_path, text) -> None:
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(DataError, match="expected a COCO ground truth"):
        load_coco(tmp_path / "a.json")


def test_missing_picture_is_named(tmp_path) -> None:
    path = _write(tmp_path, [])
    (tmp_path / "images" / "a.png").unlink()

    with pytest.raises(DataError, match=r"a\.png"):
        load_coco(path)
