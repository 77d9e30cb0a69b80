"""The size that a file states is the one that it is decoded to."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visionlora.vision.image_header import stated_size

FORMATS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"big_tiff": True}),
]


def encoded(size_wh: tuple[int, int], image_format: str, options: dict) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((size_wh[1], size_wh[0], 3), np.uint8)).save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size_wh", [(1, 1), (37, 64), (300, 7)], ids=str)
@pytest.mark.parametrize(("image_format", "options"), FORMATS, ids=str)
def test_it_is_the_size_of_the_decoded_picture(size_wh, image_format, options):
    assert stated_size(encoded(size_wh, image_format, options)) == size_wh


def test_an_alpha_webp_and_files_of_opencv_state_theirs():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 4)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP")
    assert stated_size(buffer.getvalue()) == (41, 30)
    for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp"):
        assert stated_size(cv2.imencode(suffix, pixels[:, :, :3])[1].tobytes()) == (41, 30)


@pytest.mark.parametrize(("image_format", "options"), FORMATS, ids=str)
@given(data=st.data())
def test_no_broken_file_raises(image_format, options, data):
    whole = bytearray(encoded((9, 5), image_format, options))
    for position in data.draw(st.lists(st.integers(0, min(len(whole), 200) - 1), max_size=4)):
        whole[position] = data.draw(st.integers(0, 255))
    size = stated_size(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert size is None or (size[0] >= 0 and size[1] >= 0)


@given(st.binary(max_size=200))
def test_what_is_no_picture_states_none_or_a_size(data):
    for magic in (b"", b"\xff\xd8\xff", b"II*\0\x08\0\0\0", b"MM\0+", b"RIFF\0\0\0\0WEBPVP8 "):
        size = stated_size(magic + data)
        assert size is None or min(size) >= 0
