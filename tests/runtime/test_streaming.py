"""Streams: every frame once, in order, in bounded memory; cameras come back; everything ends when told to."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.errors import DataError, UsageError
from visionlora.runtime import stream
from visionlora.runtime.frames import find_images, is_camera, is_video
from visionlora.vision.detections import Detections


def numbered(number: int) -> np.ndarray:
    """A picture that says its number in its first pixel."""
    return np.full((8, 8, 3), number % 256, dtype=np.uint8)


def first_pixel(pixels: np.ndarray) -> Detections:
    return Detections(np.zeros((1, 4)), [0.5], [pixels[0, 0, 0]])


def write(path: Path, number: int) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, numbered(number))[1].tobytes())
    return path


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name in ("reader", "worker")}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(5):
        write(tmp_path / "in" / f"{number}.png", number)
    return tmp_path / "in"


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        writer.write(np.full((48, 64, 3), 20 * number, dtype=np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_frame_comes_once_and_in_order_however_long_each_takes(workers):
    def find(pixels):
        time.sleep(0.003 * (int(pixels[0, 0, 0]) % 3))  # later frames are ready before earlier ones
        return first_pixel(pixels)

    results = list(stream(map(numbered, range(40)), find, workers=workers))
    assert [frame.index for frame, _ in results] == list(range(40))
    assert [found.class_ids[0] for _, found in results] == list(range(40)) and not threads()


def test_pictures_of_a_folder_a_pattern_and_a_list_are_streamed(folder):
    paths = find_images(folder)
    for source in (folder, str(folder), f"{folder}/*.png", paths, map(str, paths)):
        results = list(stream(source, first_pixel))
        assert [frame.source for frame, _ in results] == [str(path) for path in paths]
        assert [found.class_ids[0] for _, found in results] == list(range(5))


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (1, 3), (None, 3)])
def test_a_detector_streams_bit_for_bit_what_it_predicts_in_one_thread(exported, surface, threads, workers):
    single = vl.Detector(exported.path, confidence=0.001, threads=1)
    detector = vl.Detector(exported.path, confidence=0.001, threads=threads)
    for frame, found in detector.stream(surface.parent / "images" / "val", workers=workers):
        expected = single.predict(frame.source)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        assert found.labels == expected.labels and len(found) and found.timing.total > 0


def test_a_file_that_was_replaced_is_not_streamed_beside_the_old_one(tmp_path, folder):
    detector = vl.Detector(write_detector(tmp_path / "a.onnx"))
    write_detector(tmp_path / "a.onnx", properties={"task": "detect", "names": "{0: 'a', 1: 'b', 2: 'c'}"})
    with pytest.raises(vl.VisionLoraError, match="has changed since it was loaded"):
        detector.stream(folder, workers=2)


def test_a_video_is_read_to_its_end_with_its_times(video):
    results = list(stream(video, first_pixel))
    assert len(results) == 12 and [frame.index for frame, _ in results] == list(range(12))
    assert results[5][0].seconds == pytest.approx(0.5, abs=0.11) and results[5][0].pixels.shape == (48, 64, 3)
    assert abs(int(results[5][1].class_ids[0]) - 100) < 5


def test_few_frames_are_in_memory_where_the_consumer_is_slow():
    made = count()
    running = stream((numbered(next(made)) for _ in range(200)), first_pixel, workers=2, queue=3)
    for _, (_frame, _) in zip(range(3), running, strict=False):
        time.sleep(0.1)
    running.close()
    assert next(made) <= 3 + 3 + 2 * 2 + 2  # taken, queue, in work, in the reader's hand


def test_dropping_keeps_the_newest_frames_and_the_source_running():
    arrived = []

    def camera():
        for number in range(60):
            arrived.append(number)
            yield numbered(number)
            time.sleep(0.005)

    def slow(pixels):
        time.sleep(0.03)
        return first_pixel(pixels)

    seen = [frame.index for frame, _ in stream(camera(), slow, workers=1, queue=1, drop_oldest=True)]
    assert arrived == list(range(60))
    assert seen == sorted(seen) and len(seen) < 40 and seen[-1] == 59
    assert len(list(stream(map(numbered, range(30)), first_pixel, queue=1, drop_oldest=False))) == 30


def test_a_broken_picture_ends_the_stream_with_its_name(folder):
    (folder / "2.png").write_bytes(b"broken")
    seen = []
    with pytest.raises(DataError, match=r"2\.png"):
        seen.extend(frame.index for frame, _ in stream(folder, first_pixel, workers=3))
    assert not threads()


def test_an_error_of_the_source_and_of_the_finder_reach_the_caller():
    def dying():
        yield numbered(0)
        raise RuntimeError("the line is down")

    results = stream(dying(), first_pixel)
    assert next(results)[0].index == 0
    with pytest.raises(RuntimeError, match="the line is down"):
        next(results)
    with pytest.raises(ZeroDivisionError):
        list(stream([numbered(0)], lambda pixels: 1 / 0))
    assert not threads()


def test_leaving_the_loop_stops_the_threads():
    for _ in stream(map(numbered, count()), first_pixel, workers=3):
        break
    assert not threads()


def test_a_watched_folder_gives_what_comes_into_it_once_and_whole(folder, caplog):
    def arrive():
        time.sleep(0.3)
        write(folder / ".hidden.png", 9)
        data = cv2.imencode(".png", np.full((200, 200, 3), 7, np.uint8))[1].tobytes()
        with open(folder / "slow.png", "wb") as file:  # a slow camera writes a picture piece by piece
            for part in range(0, len(data), len(data) // 4 + 1):
                file.write(data[part : part + len(data) // 4 + 1])
                file.flush()
                time.sleep(0.1)
        (folder / "notes.txt").write_text("no picture")
        (folder / "broken.png").write_bytes(b"broken")
        time.sleep(0.3)
        write(folder / "last.png", 99)

    threading.Thread(target=arrive).start()
    seen = []
    with caplog.at_level(logging.WARNING):
        for frame, found in stream(folder, first_pixel, watch=True):
            seen.append((Path(frame.source).name, int(found.class_ids[0])))
            if seen[-1][0] == "last.png":
                break
    assert sorted(seen[:5]) == [(f"{number}.png", number) for number in range(5)]
    assert seen[5:] == [("slow.png", 7), ("last.png", 99)]
    assert "broken.png: expected an image" in caplog.text and not threads()


def test_a_watched_picture_comes_again_where_it_changes(folder):
    seen = []
    for frame, found in stream(folder, first_pixel, watch=True):
        seen.append(int(found.class_ids[0]))
        if len(seen) == 5:
            write(folder / "3.png", 33)
        if len(seen) == 6:
            assert frame.source.endswith("3.png")
            break
    assert seen == [0, 1, 2, 3, 4, 33]


@contextmanager
def mjpeg_camera(*, frames_a_visit: int, visits: int = 1000) -> Iterator[str]:
    """A network camera that hangs up after some frames, and after some visits lets nobody in."""
    visited = count()
    number = count()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if next(visited) >= visits:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _ in range(frames_a_visit):
                data = cv2.imencode(".jpg", np.full((48, 64, 3), next(number) % 256, np.uint8))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                self.wfile.write(head + data + b"\r\n")
                time.sleep(0.01)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
    finally:
        server.shutdown()
        server.server_close()


def test_a_camera_that_hangs_up_is_reached_again(caplog):
    with mjpeg_camera(frames_a_visit=30) as address, caplog.at_level(logging.WARNING):
        results = list(islice(stream(address, first_pixel, drop_oldest=False), 70))
    assert [frame.index for frame, _ in results] == list(range(70))
    assert results[0][0].source == address and results[0][0].pixels.shape == (48, 64, 3)
    assert "lost; trying to reach it again" in caplog.text


def test_a_camera_that_stays_away_is_an_error_after_a_while():
    lost = pytest.raises(DataError, match=r"lost, and not reached again within 0\.5 s")
    with mjpeg_camera(frames_a_visit=30, visits=1) as address, lost:
        list(stream(address, first_pixel, reconnect=0.5))
    assert not threads()


def test_a_camera_that_is_not_there_is_refused_at_once():
    with pytest.raises(DataError, match="expected one that can be opened"):
        list(stream("http://127.0.0.1:9/none.mjpg", first_pixel))


CODE = """
import signal, sys, time
import numpy as np
from visionlora.vision.detections import Detections
from visionlora.runtime import stream

def frames():
    while True:
        yield np.zeros((8, 8, 3), np.uint8)

seen = 0
for frame, found in stream(frames(), lambda pixels: Detections([], [], []), workers=2):
    assert frame.index == seen
    seen += 1
    if seen == 20:
        print("running", flush=True)
print("ended", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
time.sleep({pause})
"""


@pytest.mark.parametrize(("second", "code"), [(False, 0), (True, -signal.SIGTERM)], ids=["one", "two"])
def test_sigterm_ends_the_loop_and_a_second_one_the_process(second, code):
    command = [sys.executable, "-c", CODE.replace("{pause}", "30" if second else "0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ended True\n"
        if second:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == code


def test_a_handler_of_the_applications_own_is_left_alone():
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        for _ in stream(map(numbered, range(3)), first_pixel):
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (3.5, {}, UsageError, "got float"),
        (b"abc", {}, UsageError, "got bytes"),
        ("absent", {}, DataError, "absent: it does not exist"),
        ("absent", {"watch": True}, UsageError, "--watch: expected a folder"),
        ([], {"workers": 0, "queue": 0}, UsageError, "workers: expected at least 1, got 0; queue"),
    ],
    ids=["number", "bytes", "missing", "watch nothing", "no workers"],
)
def test_wrong_sources_and_options_are_refused_before_anything_starts(source, options, error, message):
    with pytest.raises(error, match=message):
        stream(source, first_pixel, **options)


def test_a_file_that_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(DataError, match=r"notes\.txt: expected a picture or a video"):
        list(stream(tmp_path / "notes.txt", first_pixel))


def test_cameras_and_videos_are_told_from_pictures(video, folder):
    assert all(map(is_camera, (0, "0", "rtsp://box/1", "/dev/video2"))) and not is_camera(video)
    assert is_video(video) and not is_video(folder) and not is_video(folder / "0.png") and not is_video("0")
