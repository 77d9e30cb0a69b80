"""One way through all pictures of a folder, in a process of its own: pictures a second, and how long each took."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import report

from visionlora.runtime.frames import find_images

Way = Callable[[str, list[Path]], tuple[Callable[[], Iterator[tuple[float, int]]], dict]]
"""A model and pictures -> what yields milliseconds (see the page) and objects of each picture, and its settings."""


def stream(workers: int | None) -> Way:
    """`Detector.stream`; the time is from the decoded picture to the caller's loop."""

    def open_way(model: str, pictures: list[Path]) -> tuple[Callable[[], Iterator[tuple[float, int]]], dict]:
        import visionlora as vl

        detector = vl.Detector(model)

        def run() -> Iterator[tuple[float, int]]:
            for frame, found in detector.stream(pictures, workers=workers):
                yield 1000 * (time.time() - frame.seconds), len(found)

        return run, {"workers": workers, "image_size": detector.image_size}

    return open_way


def predict(model: str, pictures: list[Path]) -> tuple[Callable[[], Iterator[tuple[float, int]]], dict]:
    """`Detector.predict`, one picture after another; the time is from the file to the boxes."""
    import visionlora as vl

    detector = vl.Detector(model)

    def run() -> Iterator[tuple[float, int]]:
        for picture in pictures:
            started = time.perf_counter()
            found = detector.predict(picture)
            yield 1000 * (time.perf_counter() - started), len(found)

    return run, {"image_size": detector.image_size}


def ultralytics(model: str, pictures: list[Path]) -> tuple[Callable[[], Iterator[tuple[float, int]]], dict]:
    """Ultralytics' `predict(stream=True)` at its defaults; the time is from the file to the boxes."""
    os.environ["YOLO_OFFLINE"] = "1"
    from ultralytics import YOLO

    from visionlora.runtime import OnnxNetwork

    side = OnnxNetwork(model).image_size
    detector = YOLO(model, task="detect")

    def run() -> Iterator[tuple[float, int]]:
        started = time.perf_counter()
        # A directory and not a list of files: a list would be read before the first prediction.
        for result in detector.predict(str(pictures[0].parent), stream=True, imgsz=side, device="cpu", verbose=False):
            yield 1000 * (time.perf_counter() - started), len(result.boxes)
            started = time.perf_counter()

    return run, {"image_size": side}


WAYS: dict[str, Way] = {
    "ultralytics": ultralytics,
    "predict": predict,
    "stream, one worker": stream(1),
    "stream": stream(None),
}


def other_work(since: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """Return seconds of processor time that this process, and everybody else, has taken since then."""
    busy = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(busy[3]) + int(busy[4])
    everybody = (sum(map(int, busy[:8])) - idle) / os.sysconf("SC_CLK_TCK")
    own = time.process_time()
    return own - since[0], everybody - own - since[1]


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True)
    options = parser.parse_args()
    pictures = find_images(options.source)
    run, settings = WAYS[options.way](options.model, pictures)
    for _, _ in zip(run(), range(8), strict=False):  # warm
        pass
    before, started = other_work(), time.perf_counter()
    times, objects = zip(*run(), strict=True)
    seconds, (_, others) = time.perf_counter() - started, other_work(before)
    result = {"way": options.way, "model": Path(options.model).name, "images": len(times), "objects": sum(objects)}
    result |= {
        **settings,
        "images_per_second": len(times) / seconds,
        "other_cores": others / seconds,
        "milliseconds": [round(one, 3) for one in times],
    }
    report(result)


if __name__ == "__main__":
    main()
