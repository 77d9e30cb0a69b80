"""The size of an image file, and whether the file is whole, without decoding its pixels where that can be avoided."""

from __future__ import annotations

import io
import struct
import zlib
from datetime import datetime
from pathlib import Path

from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from visionlora.data.problems import shown
from visionlora.errors import DataError
from visionlora.vision.image_header import stated_size
from visionlora.vision.preprocess import decode_image, has_end, refuse_huge, refuse_special

MIN_SIDE = 10
"""Pixels; Ultralytics leaves out smaller images, so that a model would not see them in training."""
_HEAD_BYTES = 1 << 12
"""Where nearly every file states its size."""

# Readers by the first bytes of the file. Image.open would do, but Ultralytics replaces it by one that tries to install
# a package when it meets a broken file (ultralytics/utils/patches.py, image_open).
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"II+\x00", TiffImagePlugin.TiffImageFile),  # BigTIFF
    (b"MM\x00+", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
)
# What Pillow raises for damaged files: some plugins check nothing before they compute with what a file says.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, ArithmeticError, AttributeError),
    *(AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)
_ORIENTATION, _MAKE, _MODEL = 0x0112, 0x010F, 0x0110  # EXIF tags
_DETAILS, _TIME, _FRACTION, _SERIAL = 0x8769, 0x9003, 0x9291, 0xA431  # where these lie: DateTimeOriginal ...
_UPRIGHT = (1, 2, 3, 4)  # orientations that keep width and height


def image_size(path: Path | str) -> tuple[int, int]:
    """Return width and height of an image in pixels as it is displayed, that is after EXIF rotation.

    A JPEG that ends with its end marker and a PNG whose checksums are right are taken as whole; any other file is
    decoded, so a file that was cut short is always found.

    Raises:
        DataError: the file is missing, no regular one, unreadable, cut short, of another format, larger than
            `read_image` reads, or has a side below 10 pixels.
    """
    path = Path(path)
    try:
        refuse_special(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name that no system takes
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{shown(path)}: expected an image, got none that can be read; {reason}") from error
    reader = next((reader for magic, reader in _READERS if head.startswith(magic)), None)
    if reader is None:
        got = f"a file that begins with {head[:8]!r}" if head else "an empty file"
        raise DataError(
            f"{shown(path)}: expected a JPEG, PNG, BMP, TIFF or WebP image, got {got}; replace or delete it"
        )
    try:
        if reader is JpegImagePlugin.JpegImageFile:
            size_wh = _jpeg_size(path, head)
        elif reader is PngImagePlugin.PngImageFile:
            size_wh = _png_size(path, head)
        else:
            size_wh = _decoded_size(path, reader)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from error
    except _BROKEN as error:
        raise DataError(
            f"{shown(path)}: expected a whole image, got a broken or truncated one; {error}, fetch it again"
        ) from error
    if min(size_wh) < MIN_SIDE:
        raise DataError(
            f"{shown(path)}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {size_wh[0]}x{size_wh[1]}; delete it"
        )
    return size_wh


def taken(path: Path | str) -> tuple[str, float] | None:
    """Return which camera took a picture and when, as its EXIF says; None where it does not say when.

    Returns:
        Make, model and serial number as one text, and seconds since any fixed moment by the camera's own clock.

    Raises:
        DataError: the file cannot be read as a picture.
    """
    path = Path(path)
    try:
        refuse_special(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        reader = next((reader for magic, reader in _READERS if head.startswith(magic)), None)
        if reader is None:
            return None
        with reader(path) as image:
            exif = image.getexif()
            details = exif.get_ifd(_DETAILS)
    except _BROKEN as error:
        raise DataError(f"{shown(path)}: expected an image, got none that can be read; {error}") from error
    try:
        moment = datetime.strptime(str(details.get(_TIME, "")).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    fraction = str(details.get(_FRACTION, "")).strip("\0 ")
    seconds = float(f"0.{fraction}") if fraction.isascii() and fraction.isdigit() else 0.0
    camera = " ".join(str(tags.get(tag, "")) for tags, tag in ((exif, _MAKE), (exif, _MODEL), (details, _SERIAL)))
    return camera, (moment - datetime.min).total_seconds() + seconds


def _jpeg_size(path: Path, head: bytes) -> tuple[int, int]:
    """Return a whole JPEG's size as displayed."""
    size_wh = stated_size(head) or stated_size(path.read_bytes())  # a long profile may stand before it
    if size_wh is None:
        raise ValueError("no size is stated")
    refuse_huge(size_wh)
    with JpegImagePlugin.JpegImageFile(path) as image:
        if not _ends_whole(path):
            if not has_end(path.read_bytes()):
                raise ValueError("the end marker is missing")
            image.load()
        upright = image.getexif().get(_ORIENTATION, 1) in _UPRIGHT
    return size_wh if upright else _turned_size(path.read_bytes())


def _png_size(path: Path, head: bytes) -> tuple[int, int]:
    """Return a whole PNG's size as displayed."""
    size_wh = stated_size(head)
    if size_wh is None:
        raise ValueError("no size is stated")
    refuse_huge(size_wh)
    with PngImagePlugin.PngImageFile(path) as image:
        image.verify()  # all checksums
    data = path.read_bytes()
    return _turned_size(data) if b"eXIf" in data else size_wh


def _decoded_size(path: Path, reader: type[ImageFile.ImageFile]) -> tuple[int, int]:
    """Return the size as displayed of an image of another format, which only decoding shows to be whole."""
    data = path.read_bytes()
    size_wh = stated_size(data)
    if size_wh is None:
        raise ValueError("no size is stated")
    refuse_huge(size_wh)  # before a decoder takes memory for its pixels
    with reader(io.BytesIO(data)) as image:
        refuse_huge(image.size)
        image.load()
    return _turned_size(data)


def _turned_size(data: bytes) -> tuple[int, int]:
    """Return the size of an image as it is read."""
    height, width = decode_image(data).shape[:2]
    return width, height


def _ends_whole(path: Path) -> bool:
    """Whether a JPEG's last bytes are its end marker."""
    with open(path, "rb") as file:
        file.seek(-2, 2)
        return file.read() == b"\xff\xd9"
