"""THE preprocessing of the project: from an image file to a network's input, and boxes back to the image."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from visionlora.errors import DataError, UsageError
from visionlora.vision.image_header import stated_size

PADDING = 114
"""Grey value around the image: what Ultralytics' detectors were trained with."""
LETTERBOX: Mapping[str, Any] = {"letterbox": "square", "padding": PADDING, "channels": "RGB", "scale": "1/255"}
CENTER_CROP: Mapping[str, Any] = {"resize": "shorter side", "crop": "center", "channels": "RGB", "scale": "1/255"}
"""How an image becomes a network's input, as cards state it: by `letterbox`, or by `center_crop_pixels`."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Files that count as images in a folder."""
MAX_PIXELS = 1 << 27
"""Largest image that is decoded: a file of a few bytes can ask for any amount of memory."""
MAX_SIDE = 1_000_000
"""Longest side of an image that is decoded; libpng and OpenCV take no longer one."""
MAX_FILE_BYTES = 1 << 30
_FRACTION_BITS = 22
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_SPECIAL = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


@dataclass(frozen=True)
class Placement:
    """Where the original image lies in the network's input: `input = original * scale + offset`.

    Attributes:
        scale_xy: input pixels per original pixel, across and down.
        offset_xy: left and top padding in input pixels.
        size_wh: width and height of the original image in pixels.
    """

    scale_xy: tuple[float, float]
    offset_xy: tuple[int, int]
    size_wh: tuple[int, int]

    def to_original(self, boxes_xyxy: ArrayLike) -> NDArray[np.float32]:
        """Return (N, 4) boxes of the network's input in pixels of the original image, clipped to it."""
        boxes = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        offset = np.array(self.offset_xy * 2, dtype=np.float32)
        scale = np.array(self.scale_xy * 2, dtype=np.float32)
        limit = np.array(self.size_wh * 2, dtype=np.float32)
        return np.clip((boxes - offset) / scale, 0, limit)

    def points_to_original(self, points_xy: ArrayLike, *, clip: bool = True) -> NDArray[np.float32]:
        """Return (..., 2) points of the network's input in pixels of the original image, clipped to it unless not."""
        offset, scale = np.array(self.offset_xy, dtype=np.float32), np.array(self.scale_xy, dtype=np.float32)
        points = (np.asarray(points_xy, dtype=np.float32) - offset) / scale
        return np.clip(points, 0, np.array(self.size_wh, dtype=np.float32)) if clip else points


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file as 8-bit colour, turned as its EXIF orientation says.

    Grey and CMYK become colour, 16 bits become 8, and alpha is dropped.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        DataError: the file is missing, no regular one, empty, truncated, no image, or larger than `MAX_PIXELS`,
            `MAX_SIDE` or `MAX_FILE_BYTES` allow.
    """
    path = Path(path)
    try:
        refuse_special(path)
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no system takes
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return decode_image(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def refuse_special(path: Path) -> None:
    """Refuse what is no regular file, without opening it: reading a pipe or a device may never end. Links are followed.

    Raises:
        DataError: it is a folder, a pipe, a socket or a device, or larger than `MAX_FILE_BYTES`.
        OSError: it is missing.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _SPECIAL if is_kind(found.st_mode)), "a device")
        raise DataError(f"{path}: cannot be read: expected a file, got {kind}")
    if found.st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: expected a file of at most {MAX_FILE_BYTES / 1e6:.0f} MB, got {found.st_size / 1e6:.0f} MB"
        )


def refuse_huge(size_wh: tuple[int, int]) -> None:
    """Refuse an image whose pixels are not decoded.

    Args:
        size_wh: width and height in pixels as the file states them.

    Raises:
        DataError: it has more than `MAX_PIXELS`, or a side beyond `MAX_SIDE`; the message begins with `expected`.
    """
    width, height = size_wh
    if width * height > MAX_PIXELS or width > MAX_SIDE or height > MAX_SIDE:
        raise DataError(
            f"expected an image of at most {MAX_PIXELS / 1e6:.0f} million pixels and {MAX_SIDE} a side, "
            f"got one that states {width} x {height}; cut it into tiles, or fetch it again if it is smaller"
        )


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file's bytes as `read_image` does.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        DataError: there are no bytes, they are no image or a broken one, or one that is too large; the message begins
            with `expected`, for a caller that knows the file's name.
    """
    if not data:
        raise DataError("expected an image, got an empty file")
    size_wh = stated_size(data)
    if size_wh is None:
        raise DataError("expected an image (JPEG, PNG, BMP, TIFF, WebP), got one of an unknown format")
    refuse_huge(size_wh)
    if data.startswith(_PNG) and not _chunks_fit(data):
        raise DataError("expected an image, got a file that is broken")
    try:
        # Decoding from memory: cv2.imread cannot open every path on every system.
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DataError(f"expected an image, got one that cannot be decoded: {error.err}") from error
    cut = data.startswith(_JPEG) and not data.endswith(_JPEG_END) and not has_end(data)
    if image is None or image.size == 0 or cut:
        raise DataError("expected an image, got a file that is broken")
    return np.asarray(image, dtype=np.uint8)


def as_pixels(image: Path | str | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of a file, or of an array that may be grey.

    Args:
        image: a file, or (H, W, 3) or (H, W) uint8; an array of another kind comes back as it is, for `letterbox`
            to refuse.

    Returns:
        (H, W, 3) uint8, BGR; an array of that shape is not copied.

    Raises:
        DataError: the file cannot be read, or `image` is neither path nor array.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if not isinstance(image, np.ndarray):
        raise DataError(f"expected a path or an array of pixels, got {type(image).__name__}")
    if image.ndim == 2 and image.dtype == np.uint8:
        return np.repeat(image[:, :, None], 3, axis=2)
    return image


def letterbox(image_bgr: NDArray[np.uint8], image_size: int) -> tuple[NDArray[np.float32], Placement]:
    """Fit an image into a square input without distortion, grey around it, as Ultralytics' LetterBox does.

    Args:
        image_bgr: (H, W, 3) uint8.
        image_size: side of the square in pixels.

    Returns:
        The (3, image_size, image_size) float32 RGB tensor in [0, 1], and where the image lies in it.

    Raises:
        DataError: `image_bgr` is not of this shape and type, or has no pixels.
        UsageError: `image_size` is below 1.

    Example:
        >>> tensor, placement = letterbox(np.zeros((50, 100, 3), dtype=np.uint8), 200)
        >>> tensor.shape, placement.offset_xy, placement.to_original([[20, 60, 40, 80]]).tolist()
        ((3, 200, 200), (0, 50), [[10.0, 5.0, 20.0, 15.0]])
    """
    canvas, placement = letterbox_pixels(image_bgr, image_size)
    return as_tensor(canvas), placement


def as_tensor(square_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (S, S, 3) uint8 BGR pixels as a network's input: (3, S, S) float32 RGB in [0, 1]."""
    tensor = np.empty((3, *square_bgr.shape[:2]), dtype=np.float32)
    for channel, plane in zip(tensor[::-1], cv2.split(square_bgr), strict=True):  # BGR -> RGB
        np.divide(plane, np.float32(255), out=channel)
    return tensor


def letterbox_pixels(image_bgr: NDArray[np.uint8], image_size: int) -> tuple[NDArray[np.uint8], Placement]:
    """Fit an image into a square as `letterbox` does, and leave it as it lies in memory.

    Returns:
        The (image_size, image_size, 3) uint8 BGR canvas, and where the image lies in it.

    Raises:
        DataError: `image_bgr` is not (H, W, 3) of uint8, or has no pixels.
        UsageError: `image_size` is below 1.
    """
    _check(image_bgr, image_size)
    height, width = image_bgr.shape[:2]
    scale = min(image_size / height, image_size / width)
    new_width, new_height = max(round(width * scale), 1), max(round(height * scale), 1)
    # An odd pixel of padding goes to the right and the bottom.
    left, top = round((image_size - new_width) / 2 - 0.1), round((image_size - new_height) / 2 - 0.1)
    canvas = np.full((image_size, image_size, 3), PADDING, dtype=np.uint8)
    canvas[top : top + new_height, left : left + new_width] = (
        image_bgr
        if (new_width, new_height) == (width, height)
        else cv2.resize(image_bgr, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    )
    return canvas, Placement((new_width / width, new_height / height), (left, top), (width, height))


def center_crop_pixels(image_bgr: NDArray[np.uint8], image_size: int) -> tuple[NDArray[np.uint8], Placement]:
    """Resize an image's shorter side to a square's and cut out the middle, as Ultralytics' `classify_transforms` does.

    Returns:
        The (image_size, image_size, 3) uint8 BGR square, and where the image lies in it.

    Raises:
        DataError: `image_bgr` is not (H, W, 3) of uint8, or has no pixels.
        UsageError: `image_size` is below 1.
    """
    _check(image_bgr, image_size)
    height, width = image_bgr.shape[:2]
    new_width, new_height = (int(image_size * side / min(width, height)) for side in (width, height))
    left, top = round((new_width - image_size) / 2), round((new_height - image_size) / 2)
    square = _resized(image_bgr, new_width, range(left, left + image_size), axis=1)
    square = _resized(square, new_height, range(top, top + image_size), axis=0)
    return square, Placement((new_width / width, new_height / height), (-left, -top), (width, height))


def _resized(image: NDArray[np.uint8], size: int, kept: range, *, axis: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) along an axis to `size` pixels, of which some are kept, as Pillow's BILINEAR does.

    Unlike OpenCV's, it is a triangle as wide as two pixels of the smaller image, so that nothing is skipped.
    """
    before = image.shape[axis]
    if before == size:
        return np.ascontiguousarray(image[:, kept.start : kept.stop] if axis else image[kept.start : kept.stop])
    scale = before / size
    reach = max(scale, 1.0)
    centres = (np.array(kept) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), before)
    taps = first[:, None] + np.arange((end - first).max())  # (kept, taps)
    weights = np.maximum(1 - np.abs(taps + 0.5 - centres[:, None]) / reach, 0) * (taps < end[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.floor(weights * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)  # Pillow's, so that rounding is too
    shape = (image.shape[0], len(kept), 3) if axis else (len(kept), *image.shape[1:])
    total = np.full(shape, 1 << (_FRACTION_BITS - 1), dtype=np.int32)
    for tap, weight in zip(np.minimum(taps, before - 1).T, weights.T, strict=True):
        total += image.take(tap, axis=axis) * weight.reshape((1, -1, 1) if axis else (-1, 1, 1))
    return (total >> _FRACTION_BITS).clip(0, 255).astype(np.uint8)


def _check(image_bgr: NDArray[np.uint8], image_size: int) -> None:
    if image_size < 1:
        raise UsageError(f"image size: expected at least 1 pixel, got {image_size}")
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8 or image_bgr.size == 0:
        raise DataError(f"expected an image (H, W, 3) of uint8, got {image_bgr.shape} of {image_bgr.dtype}")


def has_end(data: bytes) -> bool:
    """Whether a JPEG's pixel data is followed by its end marker, maybe with other bytes after it.

    Decoders do not tell: a file whose rest was filled with zeros gives an image that is grey below. An end marker
    before the pixel data belongs to a thumbnail.
    """
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xda":  # start of scan
            return data.find(_JPEG_END, position) >= 0
        if marker == b"\xff":  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _chunks_fit(data: bytes) -> bool:
    """Whether the chunks of a PNG end within the file; OpenCV takes the memory that a chunk states before it looks."""
    position = len(_PNG)
    while position + 12 <= len(data) and data[position + 4 : position + 8] != b"IEND":
        position += 12 + int.from_bytes(data[position : position + 4], "big")  # length, kind, ..., checksum
    return position + 12 <= len(data)
