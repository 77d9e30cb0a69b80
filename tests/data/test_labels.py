from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionlora.data import format_labels, label_path
from visionlora.data.labels import parse_labels, read_labels
from visionlora.errors import DataError, UsageError
from visionlora.tasks import DETECT

WRONG_LINES = {
    "x above 1": (
        "0 1.27 0.5 0.1 0.1",
        "expected x centre in [0, 1], got 1.27; coordinates are fractions of the image width",
    ),
    "y above 1": (
        "0 0.5 12 0.1 0.1",
        "expected y centre in [0, 1], got 12; coordinates are fractions of the image height",
    ),
    "x below 0": ("0 -0.02 0.5 0.1 0.1", "expected x centre in [0, 1], got -0.02"),
    "width above 1": ("0 0.5 0.5 1.2 0.1", "expected width in [0, 1], got 1.2"),
    "negative width": ("0 0.5 0.5 -0.2 0.1", "expected width above 0, got -0.2"),
    "negative height": ("0 0.5 0.5 0.2 -0.001", "expected height above 0, got -0.001"),
    "no height": ("0 0.5 0.5 0.2 0", "expected height above 0, got 0"),
    "box beside the image": ("0 1.009 0.5 0.01 0.1", "expected a box inside the image, got [1.004"),
    "4 columns": ("0 0.5 0.5 0.1", "expected 5 columns (class, x, y, width, height), got 4"),
    "6 columns": ("0 0.5 0.5 0.1 0.1 0.93", "got 6; labels hold no confidence"),
    "8 columns": (
        "0 .1 .1 .2 .1 .2 .2 .3",
        "expected a class and an even number of at least 6 coordinates, got 8 columns",
    ),
    "a word": ("0 0.5 half 0.1 0.1", "expected a number, got 'half'"),
    "a comma": ("0 0,5 0.5 0.1 0.1", "expected a number, got '0,5'; write decimals with a point"),
    "an underscore": ("0 0.5 0.5 0.1 0.1_0", "expected a number, got '0.1_0'"),
    "NaN": ("0 nan 0.5 0.1 0.1", "expected a number, got 'nan'"),
    "infinity": ("0 inf 0.5 0.1 0.1", "expected a number, got 'inf'"),
    "class NaN": ("nan 0.5 0.5 0.1 0.1", "expected a number, got 'nan'"),
    "class a name": ("pit 0.5 0.5 0.1 0.1", "expected a number, got 'pit'"),
    "class too high": ("3 0.5 0.5 0.1 0.1", "expected a class id from 0 to 2, got 3; data.yaml names 3 classes"),
    "class negative": ("-1 0.5 0.5 0.1 0.1", "expected a class id from 0 to 2, got -1"),
    "class not whole": ("1.5 0.5 0.5 0.1 0.1", "expected a whole number as class id, got 1.5"),
    "polygon point outside": ("0 .1 .1 .5 1.5 .5 .1", "expected y of point 2 in [0, 1], got 1.5"),
    "flat polygon": ("0 .1 .1 .5 .1 .7 .1", "expected a polygon with height in (0, 1], got 0"),
    "polygon too wide": ("0 -.01 .1 1.01 .1 .5 .5", "expected a polygon with width in (0, 1], got 1.02"),
}


@pytest.mark.parametrize(("line", "message"), WRONG_LINES.values(), ids=WRONG_LINES.keys())
def test_a_wrong_line_is_one_problem_with_its_place(line: str, message: str) -> None:
    good = "1 .1 .1 .2 .1 .2 .2" if len(line.split()) > 6 else "1 0.5 0.5 0.2 0.2"

    labels = parse_labels(f"{good}\n\n{line}\n", "labels/a.txt", class_count=3, task=DETECT)

    assert len(labels.problems) == 1
    assert labels.problems[0].startswith(
        f"labels/a.txt:3: {message}" if message.startswith("expected") else "labels/a.txt:3: "
    )
    assert message in labels.problems[0]
    assert labels.class_ids.tolist() == [1]


RIGHT_LINES = {
    "box": ("2 0.5 0.5 0.2 0.4", [2, 0.4, 0.3, 0.6, 0.7]),
    "class as a decimal": ("2.0 0.5 0.5 0.2 0.4", [2, 0.4, 0.3, 0.6, 0.7]),
    "exponents": ("0 5e-1 5E-1 2e-1 4e-1", [0, 0.4, 0.3, 0.6, 0.7]),
    "tabs and blanks": (" 0\t0.5  0.5 0.2\t0.4 ", [0, 0.4, 0.3, 0.6, 0.7]),
    "byte-order mark": ("\ufeff0 0.5 0.5 0.2 0.4", [0, 0.4, 0.3, 0.6, 0.7]),
    "within the tolerance": ("0 -0.01 1.01 0.1 0.1", [0, 0, 0.96, 0.04, 1]),
    "clipped to the image": ("0 0.9 0.5 0.4 0.2", [0, 0.7, 0.4, 1, 0.6]),
    "polygon": ("1 0.1 0.2 0.5 0.3 0.3 0.9", [1, 0.1, 0.2, 0.5, 0.9]),
    "rotated box": ("1 0.3 0.1 0.5 0.3 0.3 0.5 0.1 0.3", [1, 0.1, 0.1, 0.5, 0.5]),
}


@pytest.mark.parametrize(("line", "expected"), RIGHT_LINES.values(), ids=RIGHT_LINES.keys())
def test_a_right_line_is_one_clipped_box(tmp_path: Path, line: str, expected: list[float]) -> None:
    path = tmp_path / "a.txt"
    path.write_text(line, encoding="utf-8")

    labels = read_labels(path, class_count=3, task=DETECT)

    assert labels.problems == ()
    assert labels.class_ids.tolist() == expected[:1]
    np.testing.assert_allclose(labels.boxes_xyxy, [expected[1:]], atol=1e-6)


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["nothing", "blank lines"])
def test_an_empty_file_has_no_objects(text: str) -> None:
    labels = parse_labels(text, "a.txt", class_count=1, task=DETECT)

    assert labels.boxes_xyxy.shape == (0, 4)
    assert labels.class_ids.shape == (0,)
    assert labels.problems == ()


def test_a_missing_file_has_no_objects(tmp_path: Path) -> None:
    labels = read_labels(tmp_path / "none.txt", class_count=1, task=DETECT)

    assert labels.boxes_xyxy.shape == (0, 4)
    assert labels.problems == ()


def test_a_file_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0 0.5 0.5 0.1 0.1 \xff")

    problems = read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems

    assert len(problems) == 1
    assert "a.txt: expected UTF-8 text, got byte 0xff" in problems[0]


def test_a_folder_in_place_of_a_label_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()

    (problem,) = read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems

    assert "a.txt: expected a label file, got a folder" in problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_in_place_of_a_label_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")

    (problem,) = read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems

    assert "a.txt: expected a label file, got a pipe or a device" in problem


def test_a_link_to_nothing_is_no_image_without_objects(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")

    (problem,) = read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems

    assert "a.txt: expected a label file, got none that can be read" in problem


HUGE = {
    "a line": ("0 " * (17 << 19), "expected a label file of at most 16777216 bytes"),
    "lines": ("x\n" * 100_001, "expected at most 100000 objects in a picture, got 100001"),
    "a word": ("0 0.5 0.5 0.5 " + "5" * 1_000_000, "expected a number, got '5555555555"),
    "words": ("0 " + "0.5 " * 100_000, "expected a polygon with width in (0, 1], got 0"),
}


@pytest.mark.parametrize(("text", "message"), HUGE.values(), ids=HUGE.keys())
def test_a_huge_label_file_gives_a_short_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)

    (problem,) = read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems

    assert message in problem and len(problem) < 500


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_labels_in_another_encoding_are_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("0 0.5 0.5 0.5 0.5\n".encode(encoding))

    assert read_labels(tmp_path / "a.txt", class_count=1, task=DETECT).problems


def test_a_first_column_that_is_no_class_id_is_none_to_count_classes_by() -> None:
    labels = parse_labels("1e300 0.5 0.5 0.5 0.5\n4 0.5 0.5 0.5 0.5", "a.txt", class_count=1, task=DETECT)

    assert labels.highest_class == 4 and "got 1e+300" in labels.problems[0]


def test_boxes_and_polygons_in_one_file_are_refused() -> None:
    labels = parse_labels("0 .1 .1 .2 .1 .2 .2\n0 .5 .5 .1 .1\n", "a.txt", class_count=1, task=DETECT)

    assert len(labels.problems) == 1
    assert labels.problems[0].startswith("a.txt:2: ")
    assert "cannot be mixed with boxes" in labels.problems[0]


def test_repeated_lines_count_once_in_the_order_of_the_file() -> None:
    text = "1 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 0.50 .5 .2 .2\n1 .4 .5 .2 .2\n"

    labels = parse_labels(text, "a.txt", class_count=2, task=DETECT)

    assert labels.class_ids.tolist() == [1, 0, 1]
    assert labels.boxes_xyxy[:, 0].round(6).tolist() == [0.4, 0.4, 0.3]


def test_distinct_polygons_of_one_box_are_both_kept() -> None:
    labels = parse_labels(
        "0 .1 .1 .2 .1 .2 .2\n0 .1 .2 .2 .1 .1 .1\n0 .1 .1 .2 .1 .2 .2\n", "a.txt", class_count=1, task=DETECT
    )

    assert len(labels.class_ids) == 2
    np.testing.assert_array_equal(labels.boxes_xyxy[0], labels.boxes_xyxy[1])


@st.composite
def images_with_boxes(draw: st.DrawFn) -> tuple[tuple[int, int], list[list[float]]]:
    """Sizes, and boxes of at least a tenth of a pixel within them."""
    size_wh = draw(st.tuples(st.integers(10, 8000), st.integers(10, 8000)))
    boxes = []
    for _ in range(draw(st.integers(0, 5))):
        spans = []
        for side in size_wh:
            low = draw(st.floats(0, side - 0.1))
            spans.append((low, draw(st.floats(low + 0.1, max(low + 0.1, side)))))
        boxes.append([spans[0][0], spans[1][0], min(spans[0][1], size_wh[0]), min(spans[1][1], size_wh[1])])
    return size_wh, boxes


@given(images_with_boxes())
def test_boxes_written_and_read_come_back(image: tuple[tuple[int, int], list[list[float]]]) -> None:
    size_wh, boxes = image
    class_ids = list(range(len(boxes)))  # distinct, so that equal boxes are no repeated lines

    labels = parse_labels(
        format_labels(boxes, class_ids, size_wh=size_wh), "a.txt", class_count=max(len(boxes), 1), task=DETECT
    )

    assert labels.problems == ()
    assert labels.class_ids.tolist() == class_ids
    np.testing.assert_allclose(labels.boxes_xyxy * np.array(size_wh * 2), np.reshape(boxes, (-1, 4)), atol=1e-4)


UNWRITABLE = {
    "beyond the right edge": [10, 10, 101, 20],
    "above the image": [10, -1, 20, 20],
    "no width": [10, 10, 10, 20],
    "corners swapped": [20, 10, 10, 20],
    "NaN": [float("nan"), 10, 20, 20],
}


@pytest.mark.parametrize("box", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_a_box_that_is_not_in_the_image_is_not_written(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"box 2: expected 0 <= left < right <= 100"):
        format_labels([[1, 1, 2, 2], box], [0, 0], size_wh=(100, 50))


def test_writing_needs_a_class_for_each_box() -> None:
    with pytest.raises(UsageError, match="expected a class id for each box, got 2 for 1"):
        format_labels([[1, 1, 2, 2]], [0, 0], size_wh=(100, 50))


PATHS = {
    "plain": ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
    "last folder counts": ("/images/d/images/a.b.png", "/images/d/labels/a.b.txt"),
    "no such folder": ("/d/pictures/a.jpg", "/d/pictures/a.txt"),
    "part of a name": ("/d/my_images/a.jpg", "/d/my_images/a.txt"),
    "the file itself": ("/d/images.jpg", "/d/images.txt"),
}


@pytest.mark.parametrize(("image", "label"), PATHS.values(), ids=PATHS.keys())
def test_labels_lie_beside_the_images(image: str, label: str) -> None:
    assert label_path(image) == Path(label)
