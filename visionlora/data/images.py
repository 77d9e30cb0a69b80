"""The size of an image file, and whether the file is whole, without decoding its pixels where that can be avoided."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from visionlora.data.problems import shown
from visionlora.errors import DataError
from visionlora.preprocess import has_end, read_image

MIN_SIDE = 10
"""Pixels; Ultralytics leaves out smaller images, so that a model would not see them in training."""

# Readers by the first bytes of the file. Image.open would do, but Ultralytics replaces it by one that tries to install
# a package when it meets a broken file (ultralytics/utils/patches.py, image_open).
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\x00", TiffImagePlugin.TiffImageFile),
    (b"MM\x00*", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
)
_BROKEN = (OSError, SyntaxError, ValueError, IndexError, TypeError, KeyError, EOFError, struct.error, zlib.error)
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = (1, 2, 3, 4)  # orientations that keep width and height


def image_size(path: Path | str) -> tuple[int, int]:
    """Return width and height of an image in pixels as it is displayed, that is after EXIF rotation.

    A JPEG that ends with its end marker and a PNG whose checksums are right are taken as whole; any other file is
    decoded, so a file that was cut short is always found.

    Raises:
        DataError: the file is missing, unreadable, cut short, of another format, or has a side below 10 pixels.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(
            f"{shown(path)}: expected an image, got none that can be read; {error.strerror or error}"
        ) from error
    reader = next((reader for magic, reader in _READERS if head.startswith(magic)), None)
    if reader is None:
        got = f"a file that begins with {head[:8]!r}" if head else "an empty file"
        raise DataError(
            f"{shown(path)}: expected a JPEG, PNG, BMP, TIFF or WebP image, got {got}; replace or delete it"
        )
    try:
        size_wh, turned = _header(path, reader)
    except _BROKEN as error:
        raise DataError(
            f"{shown(path)}: expected a whole image, got a broken or truncated one; {error}, fetch it again"
        ) from error
    if turned:
        height, width = read_image(path).shape[:2]
        size_wh = (width, height)
    if min(size_wh) < MIN_SIDE:
        raise DataError(
            f"{shown(path)}: expected at least {MIN_SIDE}x{MIN_SIDE} pixels, got {size_wh[0]}x{size_wh[1]}; delete it"
        )
    return size_wh


def _header(path: Path, reader: type[ImageFile.ImageFile]) -> tuple[tuple[int, int], bool]:
    """Check that the file is whole; return its stored size and whether that may not be the displayed one."""
    with reader(path) as image:
        size_wh = image.size
        if reader is PngImagePlugin.PngImageFile:
            image.verify()  # all checksums
            return size_wh, b"eXIf" in path.read_bytes()
        if reader is not JpegImagePlugin.JpegImageFile:
            image.load()
            return size_wh, True
        if not _ends_whole(path):
            if not has_end(path.read_bytes()):
                raise ValueError("the end marker is missing")
            image.load()
        return size_wh, image.getexif().get(_ORIENTATION, 1) not in _UPRIGHT


def _ends_whole(path: Path) -> bool:
    """Whether a JPEG's last bytes are its end marker."""
    with open(path, "rb") as file:
        file.seek(-2, 2)
        return file.read() == b"\xff\xd9"
