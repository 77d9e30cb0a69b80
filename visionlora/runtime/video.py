"""Frames of a video, each with its own time; a frame that is damaged is told and left out, not taken for the end."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError
from visionlora.formats.text import is_unicode
from visionlora.vision.preprocess import IMAGE_SUFFIXES, as_pixels

TIMEOUT = 5.0
"""Seconds after which a server or a network camera that is silent counts as lost."""
_ATTEMPTS = 50
"""Frames in a row that cannot be read, after which a video counts as over."""
_SLACK = 0.02
"""Share of its stated length by which a whole video may be shorter: the length is often an estimate."""
_VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")


class DamagedVideo(DataError):
    """Frames of a video that cannot be read; those after them can."""


def read_video(source: str) -> Iterator[tuple[int, float, NDArray[np.uint8]] | DamagedVideo]:
    """Yield number, seconds from the start and pixels of each frame, and an error where frames are missing.

    The decoder counts a damaged frame or not, so numbers after one are those of the frames that were met.

    Args:
        source: a file or an address.

    Raises:
        DataError: there is no frame.
    """
    capture = open_capture(source)
    index = read = failed = 0
    last, rate = -math.inf, capture.get(cv2.CAP_PROP_FPS)
    try:
        while capture.isOpened() and failed < _ATTEMPTS:
            good, pixels = capture.read()
            if not good:
                failed += 1
                continue
            if failed:
                yield DamagedVideo(f"{source}: {_numbered(index, failed)} cannot be decoded; left out")
                index, failed = index + failed, 0
            last = _seconds(capture, index, last, rate)
            yield index, last, colour(pixels)
            index, read = index + 1, read + 1
        stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    if not read:
        raise DataError(f"{source}: expected a picture or a video, got a file that OpenCV cannot read")
    # By time: the number of frames is an estimate where their distances differ.
    if rate > 0 and stated > 0 and (last + 2 / rate) * (1 + _SLACK) < stated / rate and index < stated:
        yield DamagedVideo(
            f"{source}: ends after frame {index - 1} ({last:.2f} s); expected {stated:.0f} frames "
            f"({stated / rate:.2f} s), as the file states; it is damaged or cut short"
        )


def is_live(address: str) -> bool:
    """Whether an address is of a camera and not of a file, which ends.

    Its suffix says so, or else the server; an address that is no web address is a camera's.
    """
    parts = urlsplit(address)
    suffix = os.path.splitext(parts.path)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix in _VIDEO_SUFFIXES:
        return False
    if parts.scheme not in ("http", "https"):
        return True
    from urllib.request import Request, urlopen  # takes as long to load as OpenCV

    try:  # the head alone: some cameras let one visitor in at a time
        with urlopen(Request(address, method="HEAD"), timeout=TIMEOUT) as answer:
            kind, length = answer.headers.get_content_type(), answer.headers.get("Content-Length")
    except (OSError, ValueError):
        return True
    return not (length is not None and kind.startswith(("image/", "video/")))


def is_picture_address(address: str) -> bool:
    """Whether an address that is not live ends like a picture's."""
    return os.path.splitext(urlsplit(address).path)[1].lower() in IMAGE_SUFFIXES


def open_capture(source: int | str) -> cv2.VideoCapture:
    """Open a file, an address or a camera."""
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    # OpenCV 5 ends the process where a text is no Unicode; it takes the bytes of such a name.
    name: Any = source if is_unicode(source) else os.fsencode(source)
    if "://" in source:
        milliseconds = int(1000 * TIMEOUT)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)
    return cv2.VideoCapture(name)


def frame_rate(source: str) -> float | None:
    """Return the frames a second that a video states; None where it states none that can be."""
    capture = open_capture(source)
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if 0 < rate <= 1000 else None


def colour(pixels: Any) -> NDArray[np.uint8]:
    """Some drivers give grey frames."""
    return as_pixels(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _seconds(capture: cv2.VideoCapture, index: int, last: float, rate: float) -> float:
    """The time of the frame just read; from its number where the decoder does not know it."""
    # After the read: before it, it is the time of the frame before.
    seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if math.isfinite(seconds) and seconds > last and (seconds > 0 or index == 0):
        return seconds
    if math.isfinite(last):
        return last + 1 / rate if rate > 0 else last
    return index / rate if rate > 0 else 0.0


def _numbered(index: int, count: int) -> str:
    return f"frame {index}" if count == 1 else f"frames {index} to {index + count - 1}"
