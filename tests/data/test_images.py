from __future__ import annotations

import contextlib
import io
import random
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionlora.data.images import image_size
from visionlora.errors import DataError
from visionlora.vision.preprocess import read_image

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
    "nonsense after the magic bytes": (b"BM" + bytes(60), "expected a whole image"),
    "a size that no picture has": (b"BM" + bytes(range(60)), "expected an image of at most 134 million pixels"),
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


def test_a_bigtiff_is_read_as_any_tiff(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tif", big_tiff=True)

    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\x00"
    assert image_size(tmp_path / "a.tif") == (40, 24)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels[:, :, ::-1])


def _stating(suffix: str, width: int, height: int) -> bytes:
    """A picture of 32 x 24 pixels whose header states another size."""
    buffer = io.BytesIO()
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
    Image.new("RGB", (32, 24), (90, 40, 10)).save(buffer, kind, **({"lossless": True} if suffix == ".webp" else {}))
    data = bytearray(buffer.getvalue())
    if suffix == ".png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif suffix == ".jpg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif suffix == ".webp":
        bits = struct.unpack_from("<I", data, 21)[0] >> 28 << 28 | height - 1 << 14 | width - 1
        data[21:25] = struct.pack("<I", bits)
    else:
        place = struct.unpack_from("<I", data, 4)[0]
        for entry in range(place + 2, place + 2 + 12 * data[place], 12):
            side = {256: width, 257: height}.get(struct.unpack_from("<H", data, entry)[0])
            if side:
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("read", [image_size, read_image], ids=lambda read: read.__name__)
def test_a_picture_of_too_many_pixels_is_refused_before_memory_is_taken(tmp_path: Path, suffix: str, read) -> None:
    (tmp_path / f"a{suffix}").write_bytes(_stating(suffix, 16_000, 12_000))
    tracemalloc.start()

    with pytest.raises(DataError, match=rf"a{suffix}: expected an image of at most 134 million pixels"):
        read(tmp_path / f"a{suffix}")

    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_bmp_of_an_absurd_height_is_refused(tmp_path: Path) -> None:
    for height in (-(2**31), 2**31 - 1, -1_000_000):
        (tmp_path / "a.bmp").write_bytes(_stating(".bmp", 32, 24)[:22] + struct.pack("<i", height) + bytes(2000))
        for read in (image_size, read_image):
            with pytest.raises(DataError, match=r"a\.bmp: expected"):
                read(tmp_path / "a.bmp")


def test_a_png_chunk_that_states_more_than_the_file_holds_is_refused_at_once(tmp_path: Path) -> None:
    data = _stating(".png", 32, 24)
    (tmp_path / "a.png").write_bytes(data[:33] + struct.pack(">I", 2**32 - 1) + data[37:])
    began = time.monotonic()

    for read in (image_size, read_image):
        with pytest.raises(DataError, match=r"a\.png: expected"):
            read(tmp_path / "a.png")

    assert time.monotonic() - began < 2  # OpenCV fills 4 GB with zeros


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of broken tags
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_pictures_end_in_a_size_or_a_dataerror(write_image, tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a{suffix}", orientation=None if suffix == ".bmp" else 6)
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 2, 8])):
            place = draw.randrange(min(len(data), draw.choice([100, 10**9])))
            data[place : place + 4] = draw.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", draw.randbytes(4)]
            )
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        for read in (image_size, read_image):
            with contextlib.suppress(DataError):
                read(path)
