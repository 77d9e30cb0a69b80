from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from visionlora.data.images import image_size
from visionlora.errors import DataError
from visionlora.preprocess import read_image

SUFFIXES = [".jpg", ".png", ".bmp", ".tif", ".webp"]


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8], ids=lambda tag: f"orientation {tag}")
@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".bmp"])
def test_the_size_is_that_of_the_image_as_read(
    write_image, tmp_path: Path, suffix: str, orientation: int | None
) -> None:
    path = write_image(tmp_path / f"a{suffix}", size_wh=(40, 24), orientation=orientation)

    height, width = read_image(path).shape[:2]

    assert image_size(path) == (width, height)


def test_a_rotated_jpeg_has_its_displayed_size(write_image, tmp_path: Path) -> None:
    assert image_size(write_image(tmp_path / "a.jpg", size_wh=(40, 24), orientation=6)) == (24, 40)


@pytest.mark.parametrize("kept", [0.5, 0.97], ids=["half", "all but the end"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_short_is_found(write_image, tmp_path: Path, suffix: str, kept: float) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(DataError, match=f"a{suffix}: expected"):
        image_size(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_whose_second_half_is_zero_is_found(write_image, tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))

    with pytest.raises(DataError, match="expected a whole image, got a broken or truncated one"):
        image_size(path)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(write_image, tmp_path: Path) -> None:
    data = write_image(tmp_path / "a.jpg").read_bytes()
    thumbnail = b"\xff\xe1\x00\x08EOI\x00\xff\xd9"
    (tmp_path / "a.jpg").write_bytes(data[:2] + thumbnail + data[2:-2] + bytes(2))

    with pytest.raises(DataError, match="the end marker is missing"):
        image_size(tmp_path / "a.jpg")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(write_image, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", size_wh=(40, 24))
    path.write_bytes(path.read_bytes() + b"maker notes")

    assert image_size(path) == (40, 24)


BROKEN = {
    "empty": (b"", "expected a JPEG, PNG, BMP, TIFF or WebP image, got an empty file"),
    "a web page": (b"<!DOCTYPE html>", "got a file that begins with b'<!DOCTYP'"),
    "only a beginning": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "expected a whole image, got a broken or truncated one"),
    "nonsense after the magic bytes": (b"BM" + bytes(range(60)), "expected a whole image"),
    "a sound file": (b"RIFF\x00\x00\x00\x00WAVEfmt ", "expected a whole image"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)

    with pytest.raises(DataError) as caught:
        image_size(tmp_path / "a.jpg")

    assert "a.jpg: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: expected an image, got none that can be read; No such file"):
        image_size(tmp_path / "none.jpg")


def test_a_tiny_image_is_refused(write_image, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 10x10 pixels, got 64x9"):
        image_size(write_image(tmp_path / "a.png", size_wh=(64, 9)))


def test_a_broken_file_does_not_go_through_a_replaced_image_open(
    write_image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: sys.exit("Image.open was used"))
    whole = write_image(tmp_path / "whole.jpg")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))

    assert image_size(whole) == (64, 48)
    with pytest.raises(DataError, match="expected a whole image"):
        image_size(tmp_path / "a.jpg")
