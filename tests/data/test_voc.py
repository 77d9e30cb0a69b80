from __future__ import annotations

from pathlib import Path

import pytest

from visionlora.data import voc_boxes
from visionlora.errors import DataError

NAMES = ("pit", "scratch")
CAFE = "caf\u00e9"


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
    "digits that few read": (_object(box=("\u0661", 3, 20, 30)), "expected numbers xmin, ymin, xmax, ymax"),
    "digits with a line": (_object(box=(2, 3, "2_0", 30)), "expected numbers xmin, ymin, xmax, ymax"),
    "markup in the name": (_object("pit<b>x</b>"), "expected one <name> of plain text, got elements in it"),
    "two names": (_object("pit</name><name>scratch"), "expected one <name> of plain text, got several"),
    "two boxes": (
        _object().replace("</bndbox>", "</bndbox><bndbox><xmin>1</xmin></bndbox>"),
        "expected one <bndbox/xmin>",
    ),
    "markup as text": (_object("&lt;b&gt;pit"), "expected a class among pit, scratch, got '<b>pit'"),
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


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "billion laughs": (
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
        "declares the entity 'l0'",
    ),
    "another file": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>',
        "entity 'x'",
    ),
    "deep": ("<annotation>" + "<a>" * 200_000, "more than 64 elements inside each other"),
    "another encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "klingon"),
    "half a character": (
        "<annotation><object><name>&#xD83D;</name></object></annotation>",
        "expected XML, got a syntax",
    ),
    "another root": ("<annotations><image/></annotations>", "expected a VOC <annotation>, got <annotations>"),
    "a web page": ("<html/>", "expected a VOC <annotation>, got <html>"),
    "empty": ("", "expected XML, got a syntax error"),
    "more than any": ("<annotation>" + " " * (16 << 20), "expected an annotation of at most 16777216 bytes"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_xml_that_is_no_annotation_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)

    with pytest.raises(DataError) as caught:
        voc_boxes(tmp_path / "a.xml", NAMES)

    assert "a.xml:" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_an_annotation_may_be_in_any_encoding_that_it_names(tmp_path: Path, encoding: str) -> None:
    declared = "" if encoding.startswith("utf") else f'<?xml version="1.0" encoding="{encoding}"?>'
    text = f"{declared}<annotation>{_object(CAFE)}</annotation>"
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))

    assert voc_boxes(tmp_path / "a.xml", [CAFE])[1].tolist() == [0]
