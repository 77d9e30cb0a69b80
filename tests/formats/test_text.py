"""Text of files in a terminal, in a spreadsheet and as class names."""

import pytest

from visionlora.formats.text import class_names, csv_cell, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\nc", "a\\rb\\nc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("caf\udce9", "caf\\udce9"),
        ("\u00e9\U0001f600\tz", "\u00e9\U0001f600\tz"),
    ],
    ids=["title", "lines", "direction", "bytes", "text"],
)
def test_printable_text_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_printable_text_keeps_lines_where_asked() -> None:
    assert printable("a\n\x1bb", lines=True) == "a\n\\x1bb"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_cell_that_looks_like_a_formula_is_text(text: str) -> None:
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize(
    "value", [["a", "b"], ("a", "b"), {0: "a", 1: "b"}, {"1": "b", "0": "a"}], ids=["list", "tuple", "ids", "text"]
)
def test_class_names_come_in_the_order_of_their_ids(value: object) -> None:
    assert class_names(value) == ("a", "b")


def test_class_names_of_text_keys_are_ordered_by_number() -> None:
    assert class_names({str(i): f"n{i}" for i in range(12)})[10] == "n10"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "list or a mapping"),
        ([], "list or a mapping"),
        ("ab", "list or a mapping"),
        ({0: "a", 2: "b"}, "none for 1"),
        ({"0": "a", 0: "b"}, "got two"),
        ({"x": "a"}, "number 'x'"),
        ([1], "class 0 to be text"),
        (["a", " "], "class 1 to be text"),
        (["\ud83d"], "class 0 to be text"),
    ],
)
def test_class_names_that_are_none_are_refused(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        class_names(value)
