"""What counts as a picture of a split: odd names, links, pipes and lists."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from visionlora.data import load_dataset
from visionlora.data.listing import pictures_below
from visionlora.errors import DataError

LATIN = os.fsdecode(b"caf\xe9")
NAMES = ["two\nlines", "sep\u2028arated", "carriage\rreturn", LATIN, "  spaces ", "=formula", "\x1b[31mred"]


def names_of(root: Path) -> list[str]:
    return [image.path.stem for image in load_dataset(root / "data.yaml", splits=["train"]).split("train")]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_picture_may_have_any_name_and_keeps_its_labels(root: Path, name: str) -> None:
    shutil.move(root / "images/train/a.jpg", root / "images/train" / f"{name}.jpg")
    shutil.move(root / "labels/train/a.txt", root / "labels/train" / f"{name}.txt")

    images = {image.path.stem: image for image in load_dataset(root / "data.yaml").split("train")}

    assert set(images) == {name, "b"}
    assert len(images[name].class_ids) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_a_list_may_end_its_lines_in_any_way(root: Path, end: str, mark: bytes) -> None:
    (root / "list.txt").write_bytes(mark + end.join(["images/train/a.jpg", "images/train/b.jpg", ""]).encode())
    (root / "data.yaml").write_text("train: list.txt\nnames: [scratch]\n")

    assert names_of(root) == ["a", "b"]


@pytest.mark.parametrize("name", ["sep\u2028arated", "next\x85line", LATIN], ids=ascii)
def test_a_list_may_name_a_picture_that_is_no_utf8_or_has_a_separator(root: Path, name: str) -> None:
    shutil.move(root / "images/train/a.jpg", root / "images/train" / f"{name}.jpg")
    (root / "list.txt").write_bytes(os.fsencode(f"images/train/{name}.jpg\nimages/train/b.jpg\n"))
    (root / "data.yaml").write_text("train: list.txt\nnames: [scratch]\n")

    assert sorted(names_of(root)) == sorted([name, "b"])


def test_a_picture_that_a_list_names_twice_counts_once(root: Path) -> None:
    (root / "list.txt").write_text("images/train/a.jpg\n./images/train/a.jpg\nimages/val/../train/a.jpg\n")
    (root / "data.yaml").write_text("train: list.txt\nnames: [scratch]\n")

    assert names_of(root) == ["a"]


def test_folders_that_link_to_themselves_and_each_other_come_to_an_end(root: Path) -> None:
    folders = [root / "images/train" / str(number) for number in range(12)]
    for folder in folders:
        folder.mkdir()
        for other in folders:  # factorially many ways through them
            (folder / f"to{other.name}").symlink_to(other, target_is_directory=True)
    (root / "images/train/again").symlink_to(root / "images/train", target_is_directory=True)
    (root / "images/train/self.jpg").symlink_to(root / "images/train/self.jpg")

    assert sorted(Path(path).name for path in pictures_below(root / "images/train")) == ["a.jpg", "b.jpg", "self.jpg"]


def test_a_folder_elsewhere_is_read_through_its_link(root: Path, write_image) -> None:
    write_image(root / "elsewhere/c.jpg")
    (root / "images/train/linked").symlink_to(root / "elsewhere", target_is_directory=True)

    assert [path.relative_to(root).as_posix() for path in map(Path, sorted(pictures_below(root / "images/train")))] == [
        "images/train/a.jpg",
        "images/train/b.jpg",
        "images/train/linked/c.jpg",
    ]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path.relative_to(Path.cwd())))  # the longest allowed path is short


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"a named pipe": _pipe, "a socket": _socket, "a device": _device}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among files here")
@pytest.mark.parametrize("place", ["images/train/p.jpg", "labels/train/a.txt"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_and_not_opened(root: Path, kind: str, place: str) -> None:
    (root / place).unlink(missing_ok=True)
    SPECIAL[kind](root / place)

    with pytest.raises(DataError, match=rf"{Path(place).name}: .*got {kind}"):
        load_dataset(root / "data.yaml")  # would never end


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among files here")
def test_a_list_that_is_a_pipe_is_refused(root: Path) -> None:
    os.mkfifo(root / "list.txt")
    (root / "data.yaml").write_text("train: list.txt\nnames: [scratch]\n")

    with pytest.raises(DataError, match=r"expected a folder or a \.txt list"):
        load_dataset(root / "data.yaml", splits=["train"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_not_left_out(root: Path) -> None:
    closed = root / "images/train/closed"
    closed.mkdir(mode=0)

    with pytest.raises(DataError, match="closed: expected a folder of images, got none that can be read"):
        load_dataset(root / "data.yaml")


def test_a_list_in_utf16_is_refused(root: Path) -> None:
    (root / "list.txt").write_bytes("images/train/a.jpg\n".encode("utf-16"))
    (root / "data.yaml").write_text("train: list.txt\nnames: [scratch]\n")

    with pytest.raises(DataError, match=r"list\.txt: expected a list of images, got no text in UTF-8"):
        load_dataset(root / "data.yaml", splits=["train"])
