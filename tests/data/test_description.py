from __future__ import annotations

import os
from pathlib import Path

import pytest

from visionlora.data.coco_fields import read_coco
from visionlora.data.description import read_description
from visionlora.errors import DataError

SPLITS = "train: images/train\nval: images/val\n"
WRONG = {
    "brackets without end": ("[" * 5000, "expected YAML, got a syntax error"),
    "a null byte": ('train: "im\\0x"\nnames: [a]\n', "to be a path"),
    "no names": (SPLITS, "expected 'names' with at least one class name, got none"),
    "names without value": (SPLITS + "names:\n", "expected 'names' with at least one class name, got none"),
    "empty names": (SPLITS + "names: []\n", "expected 'names' with at least one class name, got none"),
    "names a number": (SPLITS + "names: 3\n", "expected 'names' with at least one class name"),
    "gap in the ids": (SPLITS + "names: {0: a, 2: b}\n", "expected 'names' to number its classes 0 to 1, got 0, 2"),
    "ids from 1": (SPLITS + "names: {1: a, 2: b}\n", "expected 'names' to number its classes 0 to 1, got 1, 2"),
    "an id that is no number": (SPLITS + "names: {a: 0}\n", "to number its classes 0 to 0, got a"),
    "an id twice": (SPLITS + "names: {0: a, '0': b}\n", "expected the key '0' once, got it twice"),
    "an id twice, written otherwise": (SPLITS + "names: {0: a, 00: b}\n", "to number its classes 0 to 1, got 0, 00"),
    "name missing": (SPLITS + "names: [a, ]\n" + "nc: 2\n", "expected 'nc' to be the number of names, 1, got '2'"),
    "name null": (SPLITS + "names: [a, null]\n", "expected the name of class 1 to be text, got None"),
    "name a list": (SPLITS + "names: [a, [b]]\n", "expected the name of class 1 to be text, got ['b']"),
    "name blank": (SPLITS + "names: [a, ' ']\n", "expected the name of class 1 to be text, got ' '"),
    "half a character": (SPLITS + 'names: [a, "\\ud83d"]\n', "expected the name of class 1 to be text, got '\\ud83d'"),
    "half a character, alone at the end": (SPLITS + 'names: ["x\\ude00"]\n', "write characters as they are"),
    "name twice": (SPLITS + "names: [a, b, a]\n", "expected distinct class names, got 'a' twice"),
    "nc without value": (SPLITS + "names: [a]\nnc:\n", "expected 'nc' to be the number of names, 1, got None"),
    "split a mapping": ("train: {a: b}\nnames: [a]\n", "expected 'train' to be a path or a list of paths, got {'a'"),
    "half a character in a path": ('train: "a\\ud83d"\nnames: [a]\n', "expected 'train' to be a path"),
    "a null byte in path": ('path: "a\\0b"\nnames: [a]\n', "expected 'path' to be a folder"),
    "list with a gap": ("train: [a, null]\nnames: [a]\n", "expected 'train' to be a path or a list of paths"),
    "path a list": (SPLITS + "path: [a]\nnames: [a]\n", "expected 'path' to be a folder, got ['a']"),
    "kpt_shape of other dims": (
        SPLITS + "names: [a]\nkpt_shape: [17, 4]\n",
        "expected 'kpt_shape' to be [K, 2] or [K, 3",
    ),
    "kpt_shape a word": (SPLITS + "names: [a]\nkpt_shape: all\n", "for K keypoints, got 'all'"),
    "flip_idx too short": (
        SPLITS + "names: [a]\nkpt_shape: [3, 2]\nflip_idx: [1, 0]\n",
        "expected 'flip_idx' to pair keypoints 0 to 2",
    ),
    "flip_idx in a circle": (SPLITS + "names: [a]\nkpt_shape: [3, 2]\nflip_idx: [1, 2, 0]\n", "got ['1', '2', '0']"),
    "sigmas too few": (
        SPLITS + "names: [a]\nkpt_shape: [2, 2]\nkpt_oks_sigmas: [0.1]\n",
        "expected 'kpt_oks_sigmas' to be 2 numbers above 0",
    ),
    "a sigma of 0": (SPLITS + "names: [a]\nkpt_shape: [1, 2]\nkpt_oks_sigmas: [0]\n", "to be 1 numbers above 0"),
    "grey images": (SPLITS + "names: [a]\nchannels: 1\n", "expected images of 3 channels, got 'channels: 1'"),
    "syntax": ("train: images\nnames: [a\nval: b\n", "data.yaml:3: expected YAML, got a syntax error"),
    "empty file": (
        "",
        "got an empty file; it needs three lines: 'train: images/train', 'val: images/val' and 'names: [",
    ),
    "a list": ("- a\n", "expected keys such as 'train' and 'names', got a list"),
    "a word": ("a\n", "expected keys such as 'train' and 'names', got 'a'"),
    "a key twice": ("names: [a]\nnames: [b]\n", "data.yaml:2: expected YAML, got a syntax error; expected the key"),
    "a class id twice": ("names: {0: a, 1: b, 1: c}\n", "expected the key '1' once, got it twice"),
    "a COCO ground truth": (
        '{"images": [], "annotations": []}',
        "got a COCO ground truth; rename it",
    ),
    "aliases of aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "expected at most 100000 values, got more",
    ),
    "a list in itself": ("names: &a [*a]\n", "expected the alias 'a' to name something before it"),
    "more than any description": ("#" * (1 << 20) + "\nnames: [a]\n", "expected a data.yaml of at most 1048576 bytes"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_data_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)

    with pytest.raises(DataError) as caught:
        read_description(tmp_path / "data.yaml")

    assert "data.yaml:" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_of_a_data_yaml_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: {a: b}\nnames: [a, a]\nnc: 5\n")

    with pytest.raises(DataError) as caught:
        read_description(tmp_path / "data.yaml")

    assert [line.split("expected ")[1].split()[0] for line in str(caught.value).splitlines()] == [
        "distinct",
        "'nc'",
        "'train'",
    ]


def test_a_path_that_does_not_exist_names_the_option(tmp_path: Path) -> None:
    for name, read in (("none.yaml", read_description), ("none.json", read_coco)):
        with pytest.raises(DataError, match=r"got none that can be read; No such file or directory; check --data$"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["none.yaml", "."], ids=["missing", "a folder"])
def test_an_unreadable_data_yaml_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"expected a data\.yaml.*, got"):
        read_description(tmp_path / name)


def test_a_data_yaml_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes(b"names: [\xff]")

    with pytest.raises(DataError, match="expected UTF-8 text"):
        read_description(tmp_path / "data.yaml")


NAMES = {
    "list": ("names: [a, b]", ("a", "b")),
    "mapping in any order": ("names: {1: b, 0: a}", ("a", "b")),
    "ids in quotes": ("names: {'0': a, '1': b}", ("a", "b")),
    "nc alone": ("nc: 2", ("class_0", "class_1")),
    "nc agrees": ("names: [a, b]\nnc: 2", ("a", "b")),
    "nc in quotes": ("names: [a, b]\nnc: '2'", ("a", "b")),
    "numbers": (
        "names: [7, 1.10, 010, 007, 0x1F, 1_000, 12:30]",
        ("7", "1.10", "010", "007", "0x1F", "1_000", "12:30"),
    ),
    "booleans": ("names: {0: no, 1: on, 2: Yes, 3: true}", ("no", "on", "Yes", "true")),
    "dates and floats": ("names: [2024-13-45, .inf, 1e3, 0o17]", ("2024-13-45", ".inf", "1e3", "0o17")),
    "null in quotes": ("names: ['null', '~']", ("null", "~")),
    "a tag": ("names: [!!python/name:os.system a]", ("a",)),
    "halves of one character": ('names: ["\\ud83d\\ude00", "a\\U0001F600"]', ("\U0001f600", "a\U0001f600")),
    "nc as a float": ("names: [a, b]\nnc: 2.0", ("a", "b")),
    "channels": ("names: [a]\nchannels: 3", ("a",)),
    "an alias": ("x: &a b\nnames: [a, *a]", ("a", "b")),
}


@pytest.mark.parametrize(("text", "names"), NAMES.values(), ids=NAMES.keys())
def test_names_may_be_a_list_or_a_mapping(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "data.yaml").write_text(SPLITS + text)

    assert read_description(tmp_path / "data.yaml").names == names


def test_twenty_thousand_class_names_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(SPLITS + "names: [" + ", ".join(f"c{i}" for i in range(20_000)) + ", c7]\n")

    with pytest.raises(DataError, match="expected distinct class names, got 'c7' twice"):
        read_description(tmp_path / "data.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.yaml")

    with pytest.raises(DataError, match=r"expected a data\.yaml, got a pipe or a device"):
        read_description(tmp_path / "data.yaml")


@pytest.mark.parametrize("entry", ["loop", "x" * 5000], ids=["a link to itself", "longer than any name"])
def test_a_source_that_cannot_be_is_nothing(tmp_path: Path, entry: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "data.yaml").write_text(f"path: {entry}\ntrain: {entry}\nnames: [a]\n")

    with pytest.raises(DataError, match="got nothing at"):
        read_description(tmp_path / "data.yaml").sources("train")


LAYOUTS = {
    "beside the file": ("train: images/train", "images/train"),
    "path relative to the file": ("path: sub\ntrain: images/train", "sub/images/train"),
    "empty path": ("path: ''\ntrain: images/train", "images/train"),
    "Roboflow's ../": ("train: ../images/train", "images/train"),
    "list file": ("train: lists/train.txt", "lists/train.txt"),
    "a number": ("train: 2017", "2017"),
    "list of one": ("train: [images/train]", "images/train"),
}


@pytest.mark.parametrize(("text", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_sources_are_found_from_the_folder_of_the_file(tmp_path: Path, text: str, expected: str) -> None:
    for folder in ("images/train", "sub/images/train", "lists", "2017"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set" / "lists" / "train.txt").write_text("")
    (tmp_path / "set" / "data.yaml").write_text(text + "\nnames: [a]\n")

    assert read_description(tmp_path / "set" / "data.yaml").sources("train") == (
        (tmp_path / "set" / expected).resolve(),
    )


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path / 'elsewhere'}\ntrain: train\nnames: [a]\n")

    assert read_description(tmp_path / "data.yaml").sources("train") == ((tmp_path / "elsewhere" / "train").resolve(),)


def test_validation_is_another_name_of_val(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: a\nvalidation: b\nnames: [a]\n")

    assert read_description(tmp_path / "data.yaml").splits == {"train": ("a",), "val": ("b",)}


def test_missing_folders_are_named_as_resolved_and_as_written(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("path: sub\ntrain: [images/a, images/b]\nnames: [a]\n")

    with pytest.raises(DataError) as caught:
        read_description(tmp_path / "data.yaml").sources("train")

    first, second = str(caught.value).splitlines()
    assert f"got nothing at {(tmp_path / 'sub/images/a').resolve()}" in first
    assert f"'images/b' below {(tmp_path / 'sub').resolve()}" in second


@pytest.mark.parametrize("text", ["", "test:\n"], ids=["no key", "key without value"])
def test_an_absent_split_is_refused_with_those_that_are_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(SPLITS + text + "names: [a]\n")

    with pytest.raises(DataError, match="expected a split 'test', got train, val; add the line"):
        read_description(tmp_path / "data.yaml").sources("test")
