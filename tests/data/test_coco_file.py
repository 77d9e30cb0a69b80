"""A COCO ground truth gives the images, boxes and crowds that it holds, and one error for all that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from visionlora.data import content_hash, load_coco, to_coco
from visionlora.errors import DataError
from visionlora.tasks import OrientedBoxes, Pose, Segment


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


def _fields(**more) -> dict:
    """A sound ground truth of the picture that `_write` makes."""
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [_one([4, 6, 10, 20])],
        "categories": [{"id": 9, "name": "pit"}, {"id": 3, "name": "scratch"}],
        **more,
    }


def _written(folder: Path, fields: object) -> Path:
    path = _write(folder, [])
    path.write_bytes(fields if isinstance(fields, bytes) else json.dumps(fields).encode())
    return path


PICTURE = {"id": 7, "file_name": "a.png"}
WRONG = {
    "no json": (b"no json", "got no JSON that can be read"),
    "UTF-16": (json.dumps(_fields()).encode("utf-16"), "got no JSON that can be read"),
    "deep": (b"[" * 100_000, "got no JSON that can be read"),
    "a list": ([], "got a list, as of detections"),
    "a number": (1, "expected a COCO ground truth with images, annotations and categories, got 1"),
    "a list missing": ({"images": []}, "got the keys ['images']"),
    "no list": (_fields(annotations={}), "got annotations that are no list"),
    "no entries": (_fields(images=[1]), "got images[0] with 1"),
    "another tool's keys": (
        _fields(images=[{"id": 7, "filename": "a.png"}]),
        "got images[0] with the keys ['id', 'fil",
    ),
    "no categories": (_fields(categories=[]), "expected at least one category, got none"),
    "category id as text": (_fields(categories=[{"id": "9", "name": "pit"}]), "as the ids of categories, got '9'"),
    "category id as a float": (_fields(categories=[{"id": 9.5, "name": "pit"}]), "as the ids of categories, got 9.5"),
    "category id a list": (_fields(categories=[{"id": [9], "name": "pit"}]), "as the ids of categories, got [9]"),
    "category id a truth": (_fields(categories=[{"id": True, "name": "pit"}]), "as the ids of categories, got True"),
    "category id twice": (_fields(categories=[{"id": 9, "name": n} for n in "ab"]), "once, got the id 9 twice"),
    "category twice": (_fields(categories=[{"id": n, "name": "a"} for n in (3, 9)]), "once, got the name 'a' twice"),
    "category without a name": (_fields(categories=[{"id": 9, "name": None}]), "name of class 0 to be text, got None"),
    "category name a number": (_fields(categories=[{"id": 9, "name": 1.1}]), "name of class 0 to be text, got 1.1"),
    "half a character": (_fields(categories=[{"id": 9, "name": "\ud83d"}]), "got half of a surrogate pair"),
    "picture id a list": (_fields(images=[{**PICTURE, "id": [7]}]), "images[0]: expected a whole number or text as id"),
    "picture id a float": (_fields(images=[{**PICTURE, "id": 7.5}]), "expected a whole number or text as id, got 7.5"),
    "picture without a name": (_fields(images=[{**PICTURE, "file_name": None}]), "as file_name, got None"),
    "picture with a null byte": (_fields(images=[{**PICTURE, "file_name": "a\0"}]), "as file_name, got 'a\\x00'"),
    "picture with a name beyond any": (
        _fields(images=[{**PICTURE, "file_name": "a" * 5000}]),
        "expected a picture, got",
    ),
    "picture a folder": (_fields(images=[{**PICTURE, "file_name": "."}]), "expected a picture, got no file"),
    "picture twice": (_fields(images=[PICTURE, PICTURE]), "got the id 7 more than once"),
    "file twice": (_fields(images=[PICTURE, {"id": 8, "file_name": "./a.png"}]), "got the file_name 'a.png' more than"),
    "width as text": (_fields(images=[{**PICTURE, "width": "64"}]), "expected width in pixels, got '64'"),
    "another size": (
        _fields(images=[{**PICTURE, "width": 32, "height": 24}]),
        "a.png: expected 32 x 24 pixels (width x height), as",
    ),
    "another height": (_fields(images=[{**PICTURE, "height": 24}]), "expected ? x 24 pixels (width x height), as"),
    "swapped sides": (_fields(images=[{**PICTURE, "width": 48, "height": 64}]), "width and height are swapped, or are"),
    "image id a list": (_fields(annotations=[{**_one([4, 6, 9, 9]), "image_id": [1]}]), "expected image_id to be"),
    "class a list": (_fields(annotations=[_one([4, 6, 9, 9], [9])]), "category_id among [3, 9], got [9]"),
    "class a truth": (_fields(annotations=[_one([4, 6, 9, 9], True)]), "category_id among [3, 9], got True"),
    "box of text": (_fields(annotations=[_one(["4", 6, 9, 9])]), "expected bbox [x, y, width, height] in pixels"),
    "box of a huge number": (_fields(annotations=[_one([10**400, 6, 9, 9])]), "expected bbox [x, y, width, height] in"),
    "box of NaN": (_fields(annotations=[_one([float("nan"), 6, 9, 9])]), "expected bbox [x, y, width, height] in"),
    "box without end": (_fields(annotations=[_one([4, 6, float("inf"), 9])]), "expected bbox [x, y, width, height] in"),
    "box outside": (_fields(annotations=[_one([64, 6, 9, 9])]), "inside the 64 x 48 pixels of the picture"),
    "box left of it": (_fields(annotations=[_one([-9, 6, 9, 9])]), "inside the 64 x 48 pixels of the picture"),
    "fractions": (
        _fields(annotations=[_one([0.1, 0.2, 0.8, 0.8])]),
        "which lies in the first pixel; multiply fractions",
    ),
    "crowd as text": (_fields(annotations=[_one([4, 6, 9, 9], iscrowd="0")]), "expected iscrowd to be 0 or 1, got '0'"),
    "ignored as text": (_fields(annotations=[_one([4, 6, 9, 9], ignore="false")]), "expected ignore to be 0 or 1, got"),
    "crowd of two": (_fields(annotations=[_one([4, 6, 9, 9], iscrowd=2)]), "expected iscrowd to be 0 or 1, got 2"),
    "area as text": (_fields(annotations=[_one([4, 6, 9, 9], area="81")]), "expected area in square pixels, got '81'"),
    "area below nothing": (
        _fields(annotations=[_one([4, 6, 9, 9], area=-1)]),
        "expected area in square pixels, got -1",
    ),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_ground_truth_is_refused(tmp_path, fields, message) -> None:
    with pytest.raises(DataError) as raised:
        load_coco(_written(tmp_path, fields))

    assert message in str(raised.value)
    assert "val.json: " in str(raised.value) or "a.png: " in str(raised.value) or "looked for" in str(raised.value)


RIGHT = {
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(_fields()).encode(),
    "flags as truth": _fields(annotations=[_one([4, 6, 10, 20], iscrowd=False, ignore=0.0)]),
    "no sizes": _fields(images=[PICTURE]),
    "sizes of null": _fields(images=[{**PICTURE, "width": None, "height": None}]),
    "picture id as text": _fields(
        images=[{**PICTURE, "id": "x"}], annotations=[{**_one([4, 6, 10, 20]), "image_id": "x"}]
    ),
    "ids below 0 and huge": _fields(
        categories=[{"id": -(10**30), "name": "scratch"}, {"id": 9, "name": "pit"}],
        images=[{**PICTURE, "id": -7}],
        annotations=[{**_one([4, 6, 10, 20]), "image_id": -7}],
    ),
    "masks and keypoints": _fields(
        annotations=[_one([4, 6, 10, 20], segmentation={"counts": "x", "size": None}, keypoints="?", id=None)]
    ),
}


@pytest.mark.parametrize("fields", RIGHT.values(), ids=RIGHT.keys())
def test_what_only_looks_odd_is_read(tmp_path, fields) -> None:
    dataset = load_coco(_written(tmp_path, fields))

    (image,) = dataset.split("val")
    assert dataset.names == ("scratch", "pit") and image.class_ids.tolist() == [1]
    assert image.boxes_xyxy.tolist() == [[4, 6, 14, 26]] and not image.is_crowd.any()


def test_area_of_the_file_is_that_of_the_object(tmp_path) -> None:
    annotations = [_one([4, 6, 10, 20], area=50.5), _one([0, 0, 30, 30]), _one([50, 40, 30, 30], area=0)]

    (image,) = load_coco(_write(tmp_path, annotations)).split("val")
    (plain,) = load_coco(_write(tmp_path, [{**one, "area": None} for one in annotations])).split("val")

    assert image.object_areas.tolist() == [50.5, 900, 0]
    assert plain.areas is None and plain.object_areas.tolist() == [200, 900, 112]
    assert content_hash([image]) != content_hash([plain])
    assert to_coco([image], ["a", "b"])["annotations"][0]["area"] == 50.5


@pytest.mark.parametrize("place", ["val2017", "annotations/val2017", "images/val2017"])
def test_layout_of_coco_itself_is_found(tmp_path, place) -> None:
    path = _write(tmp_path, [], images=place)

    assert load_coco(path.rename(path.with_name("instances_val2017.json"))).split("val")[0].path.is_file()


def test_missing_picture_is_named_with_the_folders_that_were_tried(tmp_path) -> None:
    path = _write(tmp_path, [])
    (tmp_path / "images" / "a.png").unlink()

    with pytest.raises(DataError, match=r"a\.png: expected a picture, got no file\npictures of .*images/val"):
        load_coco(path)


@pytest.mark.parametrize(("width", "height", "right"), [(48, 64, True), (64, 48, False)], ids=["displayed", "stored"])
def test_size_is_that_of_the_picture_as_displayed(tmp_path, write_image, width, height, right) -> None:
    write_image(tmp_path / "a.jpg", size_wh=(64, 48), orientation=6)
    fields = _fields(images=[{"id": 7, "file_name": "a.jpg", "width": width, "height": height}])
    (tmp_path / "a.json").write_text(json.dumps(fields))

    if right:
        assert load_coco(tmp_path / "a.json").split("val")[0].size_wh == (48, 64)
    else:
        with pytest.raises(DataError, match="before the picture is turned as its EXIF orientation says"):
            load_coco(tmp_path / "a.json")


def _dense(segment, size_wh=(64, 48)) -> np.ndarray:
    """A mask as pycocotools decodes it."""
    rle = coco_mask.frPyObjects(segment, *size_wh[::-1]) if isinstance(segment["counts"], list) else segment
    return coco_mask.decode(rle)


def test_masks_are_read_as_polygons_and_runs_with_their_areas(tmp_path) -> None:
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[5:9, 10:20] = 1
    packed = {**(rle := coco_mask.encode(mask)), "counts": rle["counts"].decode()}
    runs = {"size": [48, 64], "counts": [10 * 48 + 5, *[4, 44] * 9, 4, 64 * 48 - 19 * 48 - 9]}
    polygons = [[1, 1, 11, 1, 11, 21], [30, 30, 40, 30, 40, 40]]
    path = _write(tmp_path, [_one([4, 6, 10, 20], segmentation=one) for one in (polygons, packed, runs)])
    dataset = load_coco(path, task=Segment())
    (image,) = dataset.split("val")

    assert image.object_areas.tolist() == [150, 40, 40]
    assert [polygon.ravel().tolist() for polygon in image.segments[0]] == polygons
    assert all(np.array_equal(_dense(one), mask) for one in image.segments[1:])
    again = path.with_name("again.json")
    again.write_text(json.dumps(to_coco(dataset.split("val"), dataset.names)))
    assert content_hash(load_coco(again, task=Segment()).split("val")) == content_hash([image])


def test_keypoints_are_read_and_written(tmp_path) -> None:
    points = [4, 6, 2, 5, 7, 1, 0, 0, 0]
    dataset = load_coco(_write(tmp_path, [_one([4, 6, 10, 20], keypoints=points)]), task=Pose(3, 3))
    (image,) = dataset.split("val")

    assert image.keypoints.ravel().tolist() == points and image.object_areas.tolist() == [0.53 * 200]
    written = to_coco(dataset.split("val"), dataset.names)["annotations"][0]
    assert (written["keypoints"], written["num_keypoints"]) == (points, 2)


WRONG_MORE = {
    "no mask": (Segment(), {}, "expected segmentation with polygons"),
    "two points": (Segment(), {"segmentation": [[1, 1, 2, 2]]}, "expected segmentation with polygons"),
    "runs of other size": (Segment(), {"segmentation": {"size": [48, 64], "counts": [7]}}, "expected an RLE with size"),
    "no text of runs": (Segment(), {"segmentation": {"size": [48, 64], "counts": "~"}}, "expected an RLE with size"),
    "of another picture": (
        Segment(),
        {"segmentation": {"size": [2, 2], "counts": [4]}},
        "expected an RLE of size [48, 64], got [2, 2]",
    ),
    "no keypoints": (Pose(3, 3), {}, "expected keypoints [x1, y1, v1, ...] of 3, as the model has them, 9 numbers"),
    "other keypoints": (Pose(3, 3), {"keypoints": [1, 1, 2]}, "9 numbers, got 3 numbers"),
    "a confidence": (Pose(1, 3), {"keypoints": [1, 1, 0.5]}, "expected visibility 0, 1 or 2 of each keypoint"),
}


@pytest.mark.parametrize(("task", "more", "message"), WRONG_MORE.values(), ids=WRONG_MORE.keys())
def test_wrong_masks_and_keypoints_are_told_with_their_annotation(tmp_path, task, more, message) -> None:
    path = _write(tmp_path, [_one([4, 6, 10, 20], **more)])
    with pytest.raises(DataError) as caught:
        load_coco(path, task=task)
    assert "annotation 1 of a.png: " in str(caught.value) and message in str(caught.value)
    assert len(load_coco(path).split("val")[0].class_ids) == 1  # boxes do not mind


def test_oriented_boxes_are_not_looked_for_in_coco(tmp_path) -> None:
    with pytest.raises(DataError, match=r"val\.json: expected a data\.yaml, got COCO, which knows no oriented boxes"):
        load_coco(_write(tmp_path, [_one([4, 6, 10, 20])]), task=OrientedBoxes())
