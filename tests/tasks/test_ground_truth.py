"""What label files say of masks, keypoints and oriented boxes, held to Ultralytics' own reading of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics.data.utils import verify_image_label
from ultralytics.utils.ops import xywhr2xyxyxyxy

from visionlora.data import LabelledImage, content_hash, load_dataset, read_description
from visionlora.data.labels import parse_labels
from visionlora.errors import DataError, UsageError
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment, Task

SIZE_WH = (200, 100)
POINTS = Pose(3, 3)
POLYGON, CORNERS = "1 .1 .2 .5 .2 .5 .8", "0 .1 .2 .5 .2 .5 .6 .1 .6"
KEYPOINTS = "1 .5 .5 .2 .4 .45 .5 2 .5 .6 1 0 0 0"
WRONG: dict[str, tuple[Task, str, str]] = {
    "a box for a mask": (Segment(), "0 .5 .5 .1 .1", "a mask is labelled by a polygon, and this line is a box"),
    "two points": (Segment(), "0 .1 .1 .2 .2", "expected a class and an even number of at least 6 coordinates, got 5"),
    "an odd number": (Segment(), "0 .1 .1 .2 .2 .3 .3 .4", "got 8 columns; a polygon has at least 3 points"),
    "a point outside": (Segment(), "0 .1 .1 .2 1.2 .3 .3", "expected y of point 2 in [0, 1], got 1.2"),
    "a box for keypoints": (POINTS, "0 .5 .5 .1 .1", "expected 14 columns (class, x, y, width, height, and 3 for each"),
    "no visibility": (POINTS, "0 .5 .5 .1 .1 .1 .1 .2 .2 .3 .3", "got 11; data.yaml says kpt_shape: [3, 3]"),
    "a keypoint outside": (POINTS, KEYPOINTS.replace(".6 1", "1.6 1"), "expected y of keypoint 2 in [0, 1], got 1.6"),
    "a confidence": (POINTS, KEYPOINTS.replace(".6 1", ".6 .7"), "(visible) of keypoint 2, got 0.7; labels hold no"),
    "a flat box": (POINTS, KEYPOINTS.replace(".2 .4", ".2 0"), "expected height above 0, got 0"),
    "a box for corners": (OrientedBoxes(), "0 .5 .5 .1 .1", "expected 9 columns (class, x1, y1, ... x4, y4), got 5"),
    "three corners": (OrientedBoxes(), "0 .1 .1 .2 .2 .3 .1", "got 7; write four corners a line"),
    "corners on a line": (OrientedBoxes(), "0 .1 .1 .2 .2 .3 .3 .4 .4", "expected four corners around an area"),
    "a corner outside": (OrientedBoxes(), "0 -.1 .1 .2 .2 .3 .3 .4 .4", "expected x of point 1 in [0, 1], got -0.1"),
}


def labelled(tmp_path: Path, text: str, extra: str = "", name: str = "a") -> Path:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir(exist_ok=True)
    cv2.imwrite(str(tmp_path / f"images/{name}.png"), np.full((SIZE_WH[1], SIZE_WH[0], 3), 90, dtype=np.uint8))
    (tmp_path / f"labels/{name}.txt").write_text(text)
    (tmp_path / "data.yaml").write_text(f"val: images\nnames: [dog, cat]\n{extra}")
    return tmp_path / "data.yaml"


def read(data: Path, task: Task) -> LabelledImage:
    return load_dataset(data, splits=["val"], task=task).split("val")[0]


def theirs(data: Path, keypoints: tuple[int, int] = (0, 0)) -> tuple[Any, ...]:
    """Ultralytics' labels, polygons and keypoints of the picture."""
    files = str(data.parent / "images/a.png"), str(data.parent / "labels/a.txt")
    return verify_image_label((*files, "", bool(keypoints[0]), 2, *keypoints, False))[1:5:1]


@pytest.mark.parametrize(("task", "line", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_line_is_one_problem_with_its_place(task, line, message) -> None:
    good = {"segment": POLYGON, "pose": KEYPOINTS, "obb": CORNERS}[task.name]
    labels = parse_labels(f"{good}\n{line}\n", "a.txt", class_count=2, task=task)

    assert len(labels.problems) == 1 and labels.problems[0].startswith("a.txt:2: ") and message in labels.problems[0]


def test_polygons_are_those_that_ultralytics_reads(tmp_path: Path) -> None:
    data = labelled(tmp_path, f"0 0 0 1.005 0 .9 .9 .1 1\n{POLYGON}\n{POLYGON}\n")
    image = read(data, Segment())
    labels, _, polygons, _ = theirs(data)

    assert image.class_ids.tolist() == labels[:, 0].tolist() == [0, 1]  # a repeated line counts once
    for (ours,), polygon in zip(image.segments, polygons, strict=True):
        np.testing.assert_allclose(ours, np.clip(polygon, 0, 1) * SIZE_WH, atol=1e-4)
    assert image.areas.tolist() == pytest.approx([image.areas[0], 0.5 * 80 * 60])


@pytest.mark.parametrize("dims", [2, 3])
def test_keypoints_are_those_that_ultralytics_reads(tmp_path: Path, dims: int) -> None:
    line = KEYPOINTS if dims == 3 else "1 .5 .5 .2 .4 .45 .5 .5 .6 -.005 -.005"
    data = labelled(tmp_path, line, f"kpt_shape: [3, {dims}]\nflip_idx: [1, 0, 2]\nkpt_oks_sigmas: [.1, .2, .3]\n")
    image = read(data, Pose(3, dims))
    labels, _, _, keypoints = theirs(data, (3, dims))

    np.testing.assert_allclose(image.keypoints[..., :2], keypoints[..., :2] * SIZE_WH, atol=1e-4)
    np.testing.assert_array_equal(image.keypoints[..., 2] > 0, keypoints[..., 2] > 0)
    assert image.areas == pytest.approx(0.53 * labels[:, 3] * labels[:, 4] * 200 * 100)
    assert image.sigmas.tolist() == [0.1, 0.2, 0.3] and read_description(data).keypoints.flip == (1, 0, 2)


def test_oriented_boxes_are_the_rectangles_of_their_corners(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rectangles = np.column_stack(
        [rng.uniform(80, 120, 20), rng.uniform(40, 60, 20), rng.uniform(5, 30, (20, 2)), rng.uniform(0, np.pi, 20)]
    )
    corners = xywhr2xyxyxyxy(rectangles) / SIZE_WH
    text = "".join(f"0 {' '.join(f'{number:.9f}' for number in one.ravel())}\n" for one in corners)
    image = read(labelled(tmp_path, text), OrientedBoxes())

    assert (image.obb[:, 4] >= 0).all() and (image.obb[:, 4] < math.pi / 2).all()
    for ours, expected in zip(xywhr2xyxyxyxy(image.obb.astype(np.float64)), corners * SIZE_WH, strict=True):
        distances = np.linalg.norm(ours[:, None] - expected[None], axis=-1)
        assert distances.min(axis=0).max() < 1e-2 and set(distances.argmin(axis=0)) == {0, 1, 2, 3}
    assert image.areas == pytest.approx(rectangles[:, 2] * rectangles[:, 3], rel=1e-3)


@pytest.mark.parametrize(
    ("task", "text", "extra"),
    [(Segment(), POLYGON, ""), (Pose(3, 3), KEYPOINTS, "kpt_shape: [3, 3]"), (OrientedBoxes(), CORNERS, "")],
    ids=["segment", "pose", "obb"],
)
def test_what_is_labelled_beside_boxes_counts_as_content_and_goes_with_its_object(tmp_path, task, text, extra) -> None:
    two = f"{text}\n{text.replace('.5', '.52')}"
    image = read(labelled(tmp_path, two, extra), task)
    values = getattr(image, task.truth)
    moved = replace(image, **{task.truth: values[::-1]})

    assert content_hash([image]) != content_hash([moved])
    assert content_hash([image]) == content_hash([image.at(np.array([1, 0]))])
    assert len(getattr(image.at(np.array([False, True])), task.truth)) == 1
    with pytest.raises(UsageError, match=rf"a\.png: expected .*{task.truth}"):
        replace(image, **{task.truth: values[:1]})


def test_an_image_without_objects_has_no_masks_keypoints_and_rectangles(tmp_path: Path) -> None:
    for task, text, extra in ((Segment(), POLYGON, ""), (POINTS, KEYPOINTS, "kpt_shape: [3, 3]")):
        labelled(tmp_path, "", name="empty")
        image = load_dataset(labelled(tmp_path, text, extra), splits=["val"], task=task).split("val")[1]
        assert len(getattr(image, task.truth)) == len(image.class_ids) == 0


@pytest.mark.parametrize(
    ("task", "extra", "message"),
    [
        (DETECT, "kpt_shape: [3, 3]", "expected a data set of task detect, got 'kpt_shape' (a pose data set)"),
        (OrientedBoxes(), "kpt_shape: [3, 3]", "expected a data set of task obb, got 'kpt_shape'"),
        (POINTS, "", "expected kpt_shape: [3, 3], as the model has it, got no kpt_shape; take a pose data set"),
        (Pose(17, 3), "kpt_shape: [3, 3]", "expected kpt_shape: [17, 3], as the model has it, got [3, 3]"),
    ],
    ids=["boxes", "obb", "no keypoints", "other keypoints"],
)
def test_a_data_set_of_other_keypoints_is_refused_with_both_named(tmp_path, task, extra, message) -> None:
    with pytest.raises(DataError) as caught:
        read(labelled(tmp_path, KEYPOINTS, extra), task)
    assert message in str(caught.value)
