"""Where frames come from: pictures, a folder that is being filled, a video, a camera, or the caller's own code."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError, UsageError
from visionlora.formats.text import printable
from visionlora.runtime.pictures import download_picture, find_images, pixels_of
from visionlora.runtime.video import DamagedVideo, colour, is_live, is_picture_address, open_capture, read_video
from visionlora.vision.preprocess import IMAGE_SUFFIXES

Source: TypeAlias = Path | str | int | Iterable[Path | str | NDArray[np.uint8]]
"""A picture, a folder, a pattern, a video file, a camera's number or address; or pictures one after the other."""
_LOG = logging.getLogger(__name__)
_SETTLE = 0.2
"""Seconds for which a file in a watched folder must not change before it counts as written."""
_RETRY = (0.2, 5.0)
"""Seconds between attempts to reach a lost camera again: the first, and the longest; each is twice the one before."""


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """One picture of a stream.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
        source: the file, the camera's address, or `frame` for pixels of the caller's own.
        index: its number in the source, from 0; numbers that are missing were dropped or could not be read.
        seconds: its own place in a video; the Unix time at which it came otherwise.
    """

    pixels: NDArray[np.uint8]
    source: str
    index: int
    seconds: float

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        return f"Frame({printable(self.source)!r}, {self.index}, {self.seconds:.3f} s, {width} x {height})"

    def _repr_png_(self) -> bytes:
        """The picture, for a notebook."""
        return cv2.imencode(".png", self.pixels)[1].tobytes()


Pending: TypeAlias = Callable[[], Frame]
"""A frame that is not decoded yet, so that a worker can do it."""
Stopping: TypeAlias = Callable[[], bool]


def is_camera(source: Source) -> bool:
    """Whether frames come from a camera: its number, a live address, or a device such as `/dev/video0`.

    An address (with `://`) is live unless it ends like a picture or a video (`http://host/clip.mp4`), or its server
    says that it is one.
    """
    if isinstance(source, str):
        if "://" in source:
            return is_live(source)
        return (source.isdecimal() and not os.path.exists(source)) or source.startswith("/dev/video")
    return isinstance(source, int)


def is_video(source: Source) -> bool:
    """Whether frames come from a video: any file that is no picture, or what an address gives that is not live."""
    if not isinstance(source, str | Path):
        return False
    if "://" in str(source):
        return isinstance(source, str) and not is_camera(source)
    return os.path.isfile(source) and Path(source).suffix.lower() not in IMAGE_SUFFIXES and not is_camera(source)


def open_source(source: Source, *, watch: bool, reconnect: float, stopping: Stopping) -> Iterator[Pending]:
    """Return the frames of a source; for a watched folder and a camera until `stopping`.

    Args:
        source: see `Source`.
        watch: stay at a folder and take what is written into it.
        reconnect: seconds for which to try to reach a camera again that is lost.
        stopping: whether to end.

    Raises:
        DataError: there is nothing to read, or it cannot be read.
        UsageError: `source` is nothing that frames come from, or is watched and no folder.
    """
    if watch:
        if not isinstance(source, str | Path) or not Path(source).is_dir():
            raise UsageError(f"--watch: expected a folder, got {source}")
        return _watched(Path(source), stopping)
    if isinstance(source, int) or (isinstance(source, str) and is_camera(source)):
        return _camera(source, reconnect, stopping)
    if isinstance(source, str | Path):
        if isinstance(source, str) and "://" in source:
            return _fetched(source) if is_picture_address(source) else _video(source)
        return _video(str(source)) if is_video(source) else _pictures(find_images(source))
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise UsageError(f"source: expected a path, a camera or pictures, got {type(source).__name__}")
    return _pictures(source)


def _pictures(pictures: Iterable[Any]) -> Iterator[Pending]:
    for index, picture in enumerate(pictures):
        yield partial(_read, picture, index)


def _read(picture: Any, index: int) -> Frame:
    name = str(picture) if isinstance(picture, str | Path) else "frame"
    return Frame(pixels_of(picture), name, index, time.time())


def _fetched(address: str) -> Iterator[Pending]:
    yield lambda: Frame(download_picture(address), address, 0, time.time())


def _watched(folder: Path, stopping: Stopping) -> Iterator[Pending]:
    """Yield what is in a folder and what comes into it, each file once it is written; again where it changes."""
    done: dict[str, tuple[int, int]] = {}  # size and time of change, by name
    growing: dict[str, tuple[tuple[int, int], float]] = {}  # the same, and since when it is so
    index = 0
    while not stopping():
        present, now = _listing(folder), time.monotonic()
        done = {name: state for name, state in done.items() if name in present}  # no more memory than the folder needs
        fresh = {name: state for name, state in present.items() if done.get(name) != state}
        growing = {
            name: growing[name] if name in growing and growing[name][0] == state else (state, now)
            for name, state in fresh.items()
        }
        ready = [name for name, (_, since) in growing.items() if now - since >= _SETTLE]
        for name in sorted(ready, key=lambda name: (present[name][1], name)):
            done[name] = present[name]
            yield partial(_read, folder / name, index)
            index += 1
        if not ready:
            time.sleep(_SETTLE / 4)


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change of each picture in a folder."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # What begins with a dot is being written by a program that renames it afterwards.
                if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
                    state = _state(entry)
                    if state is not None:
                        found[entry.name] = state
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return found


def _state(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Its size and time of change; None for what is no regular file: a pipe would be waited for without end."""
    try:
        state = entry.stat()
    except OSError:  # taken away meanwhile, or a link to nothing or to itself
        return None
    return (state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _video(source: str) -> Iterator[Pending]:
    for read in read_video(source):
        if isinstance(read, DamagedVideo):
            yield partial(_fail, read)
        else:
            index, seconds, pixels = read
            yield partial(Frame, pixels, source, index, seconds)


def _fail(error: DataError) -> Frame:
    raise error


def _camera(source: int | str, reconnect: float, stopping: Stopping) -> Iterator[Pending]:
    """Yield a camera's frames; where it is lost, try to reach it again."""
    capture = _open_camera(source)
    if not capture.isOpened():
        raise DataError(f"camera {source}: expected one that can be opened; is it connected, and free?")
    index = 0
    try:
        while not stopping():
            good, pixels = capture.read()
            if good:
                yield partial(Frame, colour(pixels), str(source), index, time.time())
                index += 1
                continue
            capture.release()
            capture = _reopen_camera(source, reconnect, stopping)
    finally:
        capture.release()


def _open_camera(source: int | str) -> cv2.VideoCapture:
    return open_capture(int(source) if isinstance(source, str) and source.isdecimal() else source)


def _reopen_camera(source: int | str, reconnect: float, stopping: Stopping) -> cv2.VideoCapture:
    """Return the camera once it can be opened again, or whatever it is when `stopping`.

    Raises:
        DataError: it stays away for longer than `reconnect` seconds.
    """
    lost, pause = time.monotonic(), _RETRY[0]
    _LOG.warning("camera %s: lost; trying to reach it again", source)
    while True:
        capture = _open_camera(source)
        if capture.isOpened() or stopping():
            return capture
        if time.monotonic() - lost > reconnect:
            raise DataError(f"camera {source}: lost, and not reached again within {reconnect:g} s")
        wake = time.monotonic() + pause
        while time.monotonic() < wake and not stopping():
            time.sleep(0.05)
        pause = min(2 * pause, _RETRY[1])
