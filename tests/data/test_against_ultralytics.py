"""Our reading of labels against that of Ultralytics: never laxer, never different in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from visionlora.data import load_dataset
from visionlora.data.labels import parse_labels
from visionlora.tasks import DETECT

CLASSES = 3

EDGES = [0.0, -0.0, 1.0, 1.01, 1.0100001, -0.01, -0.0100001, 1e-9, 0.5]
NUMBERS = st.one_of(
    st.sampled_from(EDGES).map(repr),
    st.floats(-0.03, 1.03).map(repr),
    st.floats(0.1, 0.9).map(lambda number: f"{number:.2f}"),
    st.floats(0.1, 0.9).map(lambda number: f"{number:.2f}"),
    st.sampled_from(["nan", "inf", "-1", "x", "1e400", "1_0", "0x1"]),
)
GOOD = st.floats(0.1, 0.9).map(lambda number: f"{number:.1f}")
CLASS_WORDS = st.sampled_from(["0", "1", "2", "2", "0.0", "1.5", "-1", "3", "nan", "-0", "16777217"])


def _lines(numbers: st.SearchStrategy[str], classes: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    columns = st.sampled_from([4, 4, 4, 6, 8, 3, 5, 7, 2, 0])
    line = columns.flatmap(lambda count: st.tuples(classes, st.lists(numbers, min_size=count, max_size=count)))
    return st.lists(line.map(lambda parts: " ".join([parts[0], *parts[1]])), max_size=4).map("\n".join)


def _file(columns: int) -> st.SearchStrategy[str]:
    """Files whose lines all have one, mostly sound, form."""
    numbers = st.lists(
        st.one_of(GOOD, GOOD, GOOD, st.sampled_from(EDGES).map(repr)), min_size=columns, max_size=columns
    )
    line = st.tuples(st.sampled_from("012"), numbers).map(lambda parts: " ".join([parts[0], *parts[1]]))
    return st.lists(line, min_size=1, max_size=4).map("\n".join)


TEXTS = st.one_of(_lines(NUMBERS, CLASS_WORDS), _file(4), _file(6), _file(8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("one")
    Image.new("RGB", (64, 48)).save(path / "a.jpg")
    return path


def _ultralytics(folder: Path, text: str) -> np.ndarray | None:
    """Return the (N, 5) labels that Ultralytics reads, or None if it refuses the file."""
    from ultralytics.data.utils import verify_image_label

    (folder / "a.txt").write_text(text, encoding="utf-8")
    arguments = (str(folder / "a.jpg"), str(folder / "a.txt"), "", False, CLASSES, 0, 0, False)
    return verify_image_label(arguments)[1]


def _clipped(labels: np.ndarray) -> np.ndarray:
    """Turn (N, 5) class and xywh into sorted rows of class and clipped xyxy."""
    ids, xy, half = labels[:, :1], labels[:, 1:3], labels[:, 3:5] / 2
    return _ordered(np.hstack([ids, np.clip(np.hstack([xy - half, xy + half]), 0, 1)]))


def _ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(5).T)]


@settings(max_examples=200)
@given(text=TEXTS)
@example(text="0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n1 .5 .5 .1 .1")
@example(text="0 -0.01 .1 1.01 .1 .5 .5")
@example(text="0 .1 .1 .2 .1 .2 .2\n0 .1 .2 .2 .1 .1 .1\n0 .1 .1 .2 .1 .2 .2")
def test_what_we_accept_ultralytics_accepts_with_the_same_boxes(folder: Path, text: str) -> None:
    ours = parse_labels(text, "a.txt", class_count=CLASSES, task=DETECT)

    theirs = _ultralytics(folder, text)

    if not ours.problems:
        assert theirs is not None
        rows = np.hstack([ours.class_ids[:, None], ours.boxes_xyxy])
        assert len(rows) == len(theirs)
        np.testing.assert_allclose(_ordered(rows), _clipped(theirs), atol=2e-6)


@settings(max_examples=150)
@given(text=st.one_of(_lines(st.one_of(GOOD, NUMBERS), st.sampled_from("012")), _file(4)))
def test_boxes_that_ultralytics_accepts_we_refuse_only_if_nothing_of_them_is_in_the_image(
    folder: Path, text: str
) -> None:
    theirs = _ultralytics(folder, text)

    ours = parse_labels(text, "a.txt", class_count=CLASSES, task=DETECT)

    only_boxes = all(len(line.split()) == 5 for line in text.splitlines())
    if only_boxes and theirs is not None and ours.problems and "_" not in text:
        boxes = np.array([[float(word) for word in line.split()[1:]] for line in text.splitlines()])
        xyxy = np.clip(np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2]), 0, 1)
        nothing_inside = (xyxy[:, 2:] <= xyxy[:, :2]).any(axis=1)
        beyond_tolerance = (boxes > 1.01).any(axis=1) | (boxes < -0.01).any(axis=1)  # float32 hides up to 1e-7 of it
        assert (nothing_inside | beyond_tolerance).sum() == len(ours.problems)


def _labels_of_folder(root: Path, split: str) -> dict[str, tuple[tuple[int, int], np.ndarray]]:
    """Return what YOLODataset holds: size_wh and sorted clipped boxes by file name."""
    from ultralytics.data.dataset import YOLODataset

    data: dict[str, Any] = {"names": {0: "a", 1: "b", 2: "c"}, "channels": 3}
    dataset = YOLODataset(img_path=str(root / "images" / split), data=data, task="detect", augment=False, imgsz=64)
    return {
        Path(entry["im_file"]).name: (entry["shape"][::-1], _clipped(np.hstack([entry["cls"], entry["bboxes"]])))
        for entry in dataset.labels
    }


def test_a_folder_is_read_as_by_yolodataset(root: Path, write_image) -> None:
    labels = {
        "boxes.jpg": "0 0.5 0.5 0.25 0.25\n2 0.25 0.75 0.1 0.2\n",
        "repeated.png": "1 0.5 0.5 0.25 0.25\n0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.25 0.25\n",
        "polygons.webp": "0 0.1 0.1 0.6 0.2 0.3 0.9\n1 0.2 0.2 0.8 0.2 0.8 0.4 0.2 0.4\n",
        "over the edge.bmp": "0 0.95 0.5 0.2 0.3\n1 1.005 0.5 0.1 0.1\n",
        "turned.JPG": "2 0.5 0.5 0.2 0.4\n",
        "sub/empty.jpg": "",
    }
    for seed, (name, text) in enumerate(labels.items()):
        write_image(root / "images/val" / name, seed=seed, orientation=6 if name == "turned.JPG" else None)
        (root / "labels/val" / name).parent.mkdir(exist_ok=True)
        (root / "labels/val" / name).with_suffix(".txt").write_text(text)
    write_image(root / "images/val/background.tiff")

    theirs = _labels_of_folder(root, "val")
    ours = load_dataset(root / "data.yaml", splits=["val"]).split("val")

    assert [image.path.name for image in ours] == list(theirs)
    assert len(ours) == 9
    for image in ours:
        size_wh, rows = theirs[image.path.name]
        assert image.size_wh == tuple(size_wh)
        fractions = image.boxes_xyxy / np.array(size_wh * 2)
        np.testing.assert_allclose(_ordered(np.hstack([image.class_ids[:, None], fractions])), rows, atol=1e-5)
