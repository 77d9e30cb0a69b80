"""Frames through a detector as fast as the machine allows: in order, in bounded memory, until stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError, UsageError
from visionlora.formats.text import printable
from visionlora.runtime.frames import Frame, Pending, Source, is_camera, open_source
from visionlora.runtime.video import DamagedVideo
from visionlora.vision.detections import Detections

_LOG = logging.getLogger(__name__)
_WAIT = 0.1
"""Seconds after which a waiting thread looks whether a signal has stopped the stream: its handler may take no lock."""
_PATIENCE = 2.0
"""Seconds to wait at the end for threads and for frames in work; one that hangs in a camera's driver or on a share
that is gone is left behind."""


def stream(
    source: Source,
    find: Callable[[NDArray[np.uint8]], Detections],
    *,
    watch: bool = False,
    workers: int | None = None,
    queue: int = 4,
    drop_oldest: bool | None = None,
    reconnect: float = 60.0,
    broken: Callable[[DataError], None] | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Yield each frame of a source with what `find` finds in it, in the order of the frames.

    One thread reads, `workers` decode pictures and find, the caller's thread gets the results. So at most
    `queue + 2 * workers + 1` frames are in memory. Where the process would be ended by SIGTERM, the stream ends
    instead: the frames in work are still yielded, and the caller's code goes on behind its loop; a second SIGTERM
    ends the process.

    Args:
        source: a picture, a folder, a pattern such as `line3/*.png`, a video file; a camera's number or address
            (`rtsp://...`); or any iterable of files and (H, W, 3) uint8 BGR arrays.
        find: what finds; several threads call it at once.
        watch: stay at a folder and take the pictures that come into it, oldest first; one that is broken is logged
            and left out.
        workers: how many threads find; None for one a core.
        queue: how many frames may wait for a worker.
        drop_oldest: where the queue is full, drop the frame that has waited longest, and do not let the source wait;
            None: for cameras.
        reconnect: seconds for which to try to reach a camera again that is lost.
        broken: called, in the order of the frames, with the error of each picture or part of a video that cannot be
            read, which is then left out. None: a picture ends the stream, but for one of a watched folder, which is
            logged, as is a part of a video.

    Raises:
        DataError: there is nothing to read, or a picture cannot be read and `broken` is None; or a camera is gone for
            longer than `reconnect`.
        UsageError: `workers` or `queue` is below 1, or `source` is nothing that frames come from.
    """
    workers = available_cores() if workers is None else workers
    problems = [
        f"{name}: expected at least 1, got {n}" for name, n in (("workers", workers), ("queue", queue)) if n < 1
    ]
    if problems:
        raise UsageError("; ".join(problems))
    drop = is_camera(source) if drop_oldest is None else drop_oldest
    broken = _log if broken is None and watch else broken
    line = _Line(queue, in_work=workers if drop else 2 * workers, drop_oldest=drop, broken=broken)
    pending = open_source(source, watch=watch, reconnect=reconnect, stopping=lambda: line.stopped)
    return _results(line, pending, find, workers)


def _log(error: DataError) -> None:
    _LOG.warning("%s", printable(error))


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _results(
    line: _Line, pending: Iterator[Pending], find: Callable[[NDArray[np.uint8]], Detections], workers: int
) -> Iterator[tuple[Frame, Detections]]:
    reader = threading.Thread(target=line.read, args=(pending,), name="reader", daemon=True)
    threads = [threading.Thread(target=line.work, args=(find,), name="worker", daemon=True) for _ in range(workers)]
    with _ended_by_sigterm(line):
        try:
            for thread in (reader, *threads):
                thread.start()
            yield from line.results()
        finally:
            line.stop()
            deadline = time.monotonic() + _PATIENCE
            for thread in (*threads, reader):
                thread.join(max(deadline - time.monotonic(), 0))


class _Line:
    """Frames between one reader, some workers and one consumer; everything it holds is guarded by `_changed`."""

    def __init__(
        self, queue: int, *, in_work: int, drop_oldest: bool, broken: Callable[[DataError], None] | None
    ) -> None:
        self.stopped = False
        self._ended = False
        self._failure: BaseException | None = None
        self._queue, self._in_work = queue, in_work
        self._drop_oldest, self._broken = drop_oldest, broken
        self._changed = threading.Condition()
        self._waiting: deque[Pending] = deque()
        self._taken: deque[Future[tuple[Frame, Detections] | DataError]] = deque()

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def read(self, frames: Iterator[Pending]) -> None:
        """The reader: let frames wait."""
        try:
            for frame in frames:
                if not self._put(frame):
                    return
        except BaseException as error:  # whatever it is, the consumer raises it
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, frame: Pending) -> bool:
        """Let a frame wait; return whether the stream goes on."""
        with self._changed:
            if self._drop_oldest and len(self._waiting) == self._queue:
                self._waiting.popleft()
            while len(self._waiting) == self._queue and not self.stopped:
                self._changed.wait(_WAIT)
            self._waiting.append(frame)
            self._changed.notify_all()
            return not self.stopped

    def work(self, find: Callable[[NDArray[np.uint8]], Detections]) -> None:
        """A worker: take the frame that has waited longest, and find."""
        while True:
            with self._changed:
                while not self.stopped and not (self._waiting and len(self._taken) < self._in_work):
                    if self._ended and not self._waiting:
                        return
                    self._changed.wait(_WAIT)
                if self.stopped:
                    return
                pending, future = self._waiting.popleft(), Future[tuple[Frame, Detections] | DataError]()
                self._taken.append(future)
                self._changed.notify_all()
            try:
                future.set_result(self._found(pending, find))
            except BaseException as error:  # whatever it is, the consumer raises it
                future.set_exception(error)
            with self._changed:
                self._changed.notify_all()

    def _found(
        self, pending: Pending, find: Callable[[NDArray[np.uint8]], Detections]
    ) -> tuple[Frame, Detections] | DataError:
        try:
            frame = pending()
        except DataError as error:
            if self._broken is None and not isinstance(error, DamagedVideo):
                raise
            return error
        return frame, find(frame.pixels)

    def results(self) -> Iterator[tuple[Frame, Detections]]:
        """What the workers found, in the order of the frames."""
        while True:
            future = self._next()
            if future is None:
                return
            result = future.result()
            if isinstance(result, DataError):
                (self._broken or _log)(result)
            else:
                yield result

    def _next(self) -> Future[tuple[Frame, Detections] | DataError] | None:
        """Wait for the oldest frame in work; None where there is none any more, or it hangs after the end."""
        deadline = None
        with self._changed:
            while not (self._taken and self._taken[0].done()):
                if not self._taken and (self.stopped or (self._ended and not self._waiting)):
                    if self._failure is not None:
                        raise self._failure
                    return None
                if self.stopped:
                    deadline = time.monotonic() + _PATIENCE if deadline is None else deadline
                    if time.monotonic() > deadline:
                        _LOG.warning(
                            "%d frames in work were given up: reading or finding takes too long", len(self._taken)
                        )
                        return None
                self._changed.wait(_WAIT)
            self._changed.notify_all()
            return self._taken.popleft()


@contextmanager
def _ended_by_sigterm(line: _Line) -> Iterator[None]:
    """Let SIGTERM end the stream where nobody else handles it; a second one does what it did before."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        line.stopped = True  # without the lock: this thread may hold it

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
