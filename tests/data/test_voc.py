from __future__ import annotations

from pathlib import Path

import pytest

from visionlora.data import voc_boxes
from visionlora.errors import DataError

NAMES = ("pit", "scratch")


def _object(name: str = "pit", box: tuple[object, ...] = (2, 3, 20, 30)) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"


def _write(folder: Path, *objects: str) -> Path:
    path = folder / "a.xml"
    path.write_text(f"<annotation><size><width>200</width></size>{''.join(objects)}</annotation>")
    return path


def test_boxes_and_classes_are_read_as_they_stand(tmp_path: Path) -> None:
    path = _write(tmp_path, _object(), _object("scratch", (1, 1, 200, 200.5)), _object())

    boxes, class_ids = voc_boxes(path, NAMES)

    assert boxes.tolist() == [[2, 3, 20, 30], [1, 1, 200, 200.5]]  # the repeated object counts once
    assert class_ids.tolist() == [0, 1]


def test_an_annotation_may_have_no_objects(tmp_path: Path) -> None:
    boxes, class_ids = voc_boxes(_write(tmp_path), NAMES)

    assert (boxes.shape, class_ids.shape) == ((0, 4), (0,))


WRONG = {
    "unknown class": (_object("dent"), "expected a class among pit, scratch, got 'dent'"),
    "no name": ("<object></object>", "expected a class among pit, scratch, got ''"),
    "no box": ("<object><name>pit</name></object>", "expected numbers xmin, ymin, xmax, ymax, got ['', '', '', '']"),
    "a word": (_object(box=(2, "x", 20, 30)), "expected numbers xmin, ymin, xmax, ymax, got ['2', 'x', '20', '30']"),
    "NaN": (_object(box=("nan", 3, 20, 30)), "expected xmin < xmax and ymin < ymax from 0 up"),
    "infinity": (_object(box=(2, 3, "inf", 30)), "expected xmin < xmax and ymin < ymax from 0 up"),
    "corners swapped": (_object(box=(20, 3, 2, 30)), "expected xmin < xmax and ymin < ymax from 0 up"),
    "negative": (_object(box=(-1, 3, 2, 30)), "expected xmin < xmax and ymin < ymax from 0 up"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_object_is_named(tmp_path: Path, wrong: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        voc_boxes(_write(tmp_path, _object(), wrong), NAMES)

    assert f"a.xml: object 2: {message}" in str(caught.value)


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xml: expected an annotation, got none that can be read"):
        voc_boxes(tmp_path / "none.xml", NAMES)


def test_broken_xml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation>\n<object>\n</annotation>")

    with pytest.raises(DataError, match=r"a\.xml:3: expected XML, got a syntax error"):
        voc_boxes(tmp_path / "a.xml", NAMES)
