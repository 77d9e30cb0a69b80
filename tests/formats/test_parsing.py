"""What a damaged or hostile text may do to its reader: end in a value or a ValueError, at once."""

import time

import pytest

from visionlora.formats.parsing import parse_json, parse_literal
from visionlora.formats.yaml_text import parse_yaml

BILLION = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize("word", ["no", "on", "007", "010", "1.10", "12:30", "0x1F", "1_000", "2024-01-01", "1e3"])
def test_yaml_scalars_are_the_text_that_was_written(word: str) -> None:
    assert parse_yaml(f"names: [{word}]") == {"names": [word]}


def test_yaml_knows_what_is_not_there_from_empty_text() -> None:
    assert parse_yaml("a:\nb: ~\nc: null\nd: ''") == {"a": None, "b": None, "c": None, "d": ""}


@pytest.mark.parametrize(
    "text",
    [BILLION, "[" * 100_000, "{" * 50_000, "- " * 10_000, "a: &x [*x]", "a: 1\na: 2", "? [a]\n: b", "a: b: c", "\0"],
    ids=["aliases", "lists", "mappings", "sequences", "itself", "twice", "key", "syntax", "nul"],
)
def test_yaml_that_cannot_be_meant_is_refused_at_once(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError):
        parse_yaml(text)
    assert time.monotonic() - started < 5


def test_an_alias_of_yaml_repeats_what_it_names() -> None:
    assert parse_yaml("a: &n [cat, dog]\nb: *n") == {"a": ["cat", "dog"], "b": ["cat", "dog"]}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"{", b'"\\ud83d"', b"9" * 5000])
def test_json_that_cannot_be_meant_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(content)


def test_json_may_begin_with_a_byte_order_mark_and_write_an_emoji_as_two_halves() -> None:
    assert parse_json(b'\xef\xbb\xbf"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("text", ["(" * 10_000, "a", "[1", "1" * 5000, "{[]: 1}"])
def test_a_literal_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_literal(text)


def test_two_halves_of_a_character_are_that_character_in_yaml_as_in_json() -> None:
    text = r'{"a": ["\ud83d\ude00", "x\ud83d\ude00\u00e9"]}'

    assert parse_yaml(text) == parse_json(text) == {"a": ["\U0001f600", "x\U0001f600\u00e9"]}
