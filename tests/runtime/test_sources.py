"""Where frames come from: each with its own time, damage told, files by address read once, nothing that hangs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.errors import DataError
from visionlora.runtime import stream
from visionlora.runtime.frames import find_images, is_camera, is_video
from visionlora.runtime.pictures import pixels_of
from visionlora.vision.detections import Detections

ROOT = Path(__file__).parents[2]
TIMES = [0, 100, 150, 700, 1500, 1550, 3000]


def nothing(pixels: np.ndarray) -> Detections:
    return Detections([], [], [])


def clip(path: Path, frames: int = 12, fourcc: str = "MJPG", rate: float = 10) -> Path:
    """A video whose frames are noise of their own."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), rate, (64, 48))
    for number in range(frames):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    return path


def picture(path: Path) -> Path:
    path.write_bytes(cv2.imencode(".png", np.full((8, 8, 3), 9, np.uint8))[1].tobytes())
    return path


def seconds_of(path: Path) -> list[float]:
    return [round(frame.seconds, 3) for frame, _ in stream(path, nothing)]


def test_each_frame_has_its_own_time(tmp_path):
    assert seconds_of(clip(tmp_path / "a.avi")) == [number / 10 for number in range(12)]
    assert seconds_of(clip(tmp_path / "a.mp4", 5, "mp4v", 25)) == [number / 25 for number in range(5)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_frame_rate_is_heeded(tmp_path, name, caplog):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w") as file:
        track = file.add_stream("mpeg4", rate=30)
        track.width, track.height, track.pix_fmt, track.codec_context.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        for number, milliseconds in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * number, np.uint8), format="bgr24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    assert seconds_of(tmp_path / name) == [one / 1000 for one in TIMES]
    assert caplog.text == ""  # mkv states 91 frames: an estimate, no damage


def damaged(path: Path, frame: int) -> Path:
    """A clip one of whose JPEGs is overwritten."""
    content = bytearray(clip(path).read_bytes())
    starts = [i for i in range(len(content) - 2) if content[i : i + 3] == b"\xff\xd8\xff"]
    content[starts[frame] : starts[frame] + 700] = bytes(700)
    path.write_bytes(content)
    return path


def test_a_damaged_frame_is_told_and_the_rest_is_read(tmp_path, caplog):
    path = damaged(tmp_path / "clip.avi", 5)
    with caplog.at_level(logging.WARNING):
        frames = [frame for frame, _ in stream(path, nothing)]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [round(frame.seconds, 2) for frame in frames][4:6] == [0.4, 0.6]
    assert "clip.avi: frame 5 cannot be decoded" in caplog.text
    told: list[DataError] = []
    assert len(list(stream(path, nothing, broken=told.append))) == 11 and "frame 5" in str(told[0])


def test_a_video_that_is_cut_short_says_so(tmp_path, caplog):
    whole = clip(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    assert len(list(stream(tmp_path / "whole.avi", nothing))) == 12 and caplog.text == ""
    with caplog.at_level(logging.WARNING):
        read = len(list(stream(tmp_path / "cut.avi", nothing)))
    assert 0 < read < 12 and f"cut.avi: ends after frame {read - 1}" in caplog.text
    assert "expected 12 frames (1.20 s)" in caplog.text


@contextmanager
def served(folder: Path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_picture_and_a_video_by_address_are_read_once(tmp_path):
    picture(tmp_path / "bus.png"), clip(tmp_path / "clip.mp4", 5, "mp4v")
    (tmp_path / "broken.png").write_bytes(b"broken")
    with served(tmp_path) as address:
        frames = [frame for frame, _ in stream(f"{address}/bus.png?size=1", nothing)]
        assert [(frame.index, frame.pixels.shape) for frame in frames] == [(0, (8, 8, 3))]
        assert [frame.index for frame, _ in stream(f"{address}/clip.mp4", nothing)] == [0, 1, 2, 3, 4]
        with pytest.raises(DataError, match=rf"^{address}/broken\.png: expected an image"):
            list(stream(f"{address}/broken.png", nothing))
        with pytest.raises(DataError, match=r"absent\.png: cannot be fetched"):
            list(stream(f"{address}/absent.png", nothing))


def test_addresses_of_cameras_are_told_from_those_of_files(tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    assert is_camera("rtsp://10.0.0.1/line") and is_camera("http://127.0.0.1:9/stream")
    assert not is_camera("https://127.0.0.1:9/a.JPG") and is_video("https://127.0.0.1:9/a.mp4?x=1")
    with served(tmp_path) as address:
        assert is_camera(f"{address}/plain")  # no image/ and no video/


def test_hidden_files_and_what_is_no_regular_file_are_left_out(tmp_path):
    picture(tmp_path / "a.png"), (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("absent.png")
    (tmp_path / "folder.png").mkdir()
    for source in (tmp_path, tmp_path / "*.png", tmp_path / "**" / "*.png", tmp_path / "**"):
        assert find_images(source) == [tmp_path / "a.png"]
    assert find_images(tmp_path / "._a.png") == [tmp_path / "._a.png"]  # asked for by name
    with pytest.raises(DataError, match=r"1 named like one, but no regular file"):
        find_images(tmp_path / "pipe.png")
    for read in (pixels_of, vl.Detector(write_detector(tmp_path / "a.onnx")).predict):
        with pytest.raises(DataError, match=r"pipe\.png: expected an image, got no regular file"):
            read(tmp_path / "pipe.png")


def test_linked_folders_that_loop_end(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / f"{name}.png")
        for number in range(6):
            (tmp_path / name / f"link{number}").symlink_to(tmp_path / ("b" if name == "a" else "a"))
    names = [path.name for path in find_images(tmp_path / "**" / "*.png")]
    assert sorted(names) == ["a.png", "b.png"]


def test_patterns_name_what_they_say(tmp_path):
    for name in ("1/x/a.png", "1/b.png", "2/c.png", "2/[d].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / name)
    found = {
        pattern: [path.name for path in find_images(tmp_path / pattern)]
        for pattern in ("?/*.png", "**/*.png", "1/**/*.png", "*/x/*.png", "2/[[]d].png", "2/[d].png")
    }
    assert found == {
        "?/*.png": ["b.png", "[d].png", "c.png"],
        "**/*.png": ["b.png", "a.png", "[d].png", "c.png"],
        "1/**/*.png": ["b.png", "a.png"],
        "*/x/*.png": ["a.png"],
        "2/[[]d].png": ["[d].png"],
        "2/[d].png": ["[d].png"],
    }


def test_a_pipe_does_not_stall_a_watched_folder(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    picture(tmp_path / "1.png")
    for frame, _ in stream(tmp_path, nothing, watch=True):
        assert frame.source.endswith("1.png")
        break


def test_names_that_are_no_utf8_are_read(tmp_path):
    picture(tmp_path / os.fsdecode(b"caf\xe9.png"))
    video = clip(tmp_path / "a.avi", 3).rename(tmp_path / os.fsdecode(b"caf\xe9.avi"))
    frames = [frame for frame, _ in stream(tmp_path, nothing)]
    assert os.fsencode(frames[0].source).endswith(b"caf\xe9.png")
    assert len(list(stream(video, nothing))) == 3 and "\\udce9" in repr(frames[0])
    for frame, _ in stream(tmp_path, nothing, watch=True):
        assert os.fsencode(frame.source).endswith(b"caf\xe9.png")
        break


HANGING = """
import os, sys, time
import numpy as np
from visionlora.vision.detections import Detections
from visionlora.runtime import stream

def find(pixels):
    os.write(1, b"hanging\\n")  # in one piece, whoever writes beside
    time.sleep(100)

for _ in stream([np.zeros((8, 8, 3), np.uint8)] * 9, find, workers=2):
    pass
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_read_that_hangs_does_not_keep_a_stream_from_ending(number):
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "hanging\n"
            started = time.monotonic()
            process.send_signal(number)
            printed, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - started < 15
    assert ("ended" in printed) if number == signal.SIGTERM else ("KeyboardInterrupt" in said)


def test_a_pillow_image_is_read_as_its_file_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 250).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[:, :, 0]])).save(tmp_path / "alpha.png")
    Image.fromarray(pixels).quantize(16).save(tmp_path / "palette.png")
    detector = vl.Detector(write_detector(tmp_path / "a.onnx"), confidence=0.1)
    for path in find_images(tmp_path):
        with Image.open(path) as image:
            np.testing.assert_array_equal(pixels_of(image), pixels_of(path), err_msg=path.name)
            one, several = detector.predict(image), detector.predict([image, path])
        np.testing.assert_array_equal(one.boxes_xyxy, several[1].boxes_xyxy)
    with pytest.raises(DataError, match="mode F"):
        detector.predict(Image.new("F", (8, 8)))
