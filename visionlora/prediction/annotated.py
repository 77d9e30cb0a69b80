"""A video with the boxes drawn: whole or not at all, and as long as its source."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.errors import OutputError
from visionlora.formats.text import is_unicode

VIDEO_FILE = "annotated.mp4"
CAMERA_RATE = 25.0
"""Frames a second of a camera's video: a camera does not say at which it will come."""
_LONGEST_STILL = 5.0
"""Seconds for which a frame is shown again where the next is missing; a camera may be lost for hours."""


class AnnotatedVideo:
    """Writes frames into an MP4 file of constant frame rate; the file gets its name when it is whole.

    Each frame is there at least once, and again where its time says that the next comes later, so that a video of
    variable frame rate, or with frames left out, keeps its length.
    """

    def __init__(self, folder: Path, rate: float) -> None:
        self._path, self._partial = folder / VIDEO_FILE, folder / f".{VIDEO_FILE}.partial.mp4"
        self._rate, self._written, self._start = rate, 0, 0.0
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)
        self._last: NDArray[np.uint8] | None = None

    def add(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """Write a frame, (H, W, 3) uint8 BGR, whose place is `seconds` from any moment that all frames share.

        Raises:
            OutputError: OpenCV cannot write such a video here.
        """
        if self._writer is None:
            self._open(pixels, seconds)
        if (pixels.shape[1], pixels.shape[0]) != self._size_wh:  # a camera that came back with another size
            pixels = np.asarray(cv2.resize(pixels, self._size_wh), dtype=np.uint8)
        place = round((seconds - self._start) * self._rate)
        if place - self._written > _LONGEST_STILL * self._rate:
            self._start += (place - self._written) / self._rate - _LONGEST_STILL
            place = self._written + round(_LONGEST_STILL * self._rate)
        while self._last is not None and self._written < place:
            self._write(self._last)
        self._write(pixels)
        self._last = pixels

    def close(self) -> None:
        """End the file and give it its name.

        Raises:
            OutputError: frames are missing in it, for example because the disk is full.
        """
        if self._writer is None:
            return
        self._writer.release()
        capture = cv2.VideoCapture(_name(self._partial))
        counted = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if counted != self._written:
            raise OutputError(f"{VIDEO_FILE}: cannot be written: {counted} of {self._written} frames are in it")
        os.replace(self._partial, self._path)

    def discard(self) -> None:
        """Remove what was written."""
        if self._writer is not None:
            self._writer.release()
            with suppress(OSError):
                self._partial.unlink()

    def _open(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        self._size_wh, self._start = (pixels.shape[1], pixels.shape[0]), seconds
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(_name(self._partial), code, self._rate, self._size_wh)
        if not self._writer.isOpened():
            raise OutputError(
                f"{VIDEO_FILE}: cannot be written: this OpenCV has no encoder for MP4, or the picture of "
                f"{self._size_wh[0]} x {self._size_wh[1]} pixels is too small for it"
            )

    def _write(self, pixels: NDArray[np.uint8]) -> None:
        assert self._writer is not None
        self._writer.write(pixels)
        self._written += 1


def _name(path: Path) -> Any:
    # OpenCV 5 ends the process where a text is no Unicode; it takes the bytes of such a name.
    return str(path) if is_unicode(str(path)) else os.fsencode(path)
