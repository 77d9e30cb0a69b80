"""The process that holds one model: reads a JSON line, answers with one, and does nothing in between.

It imports what a device would: the letterbox, the decoding and one runtime, so that its memory is a deployment's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from visionlora.detectors import family_of
from visionlora.errors import VisionLoraError
from visionlora.tasks import one_image
from visionlora.trust import trusted
from visionlora.vision.detections import IOU_THRESHOLD
from visionlora.vision.preprocess import Placement, as_tensor, read_image

PARTS = ("read", "letterbox", "network", "decode")
"""The parts of a frame: file to pixels, pixels to input, input to prediction, prediction to boxes (with NMS)."""


class Stage:
    """A model, the pictures that it is shown, and what is measured on them."""

    def __init__(self, *, model: Mapping[str, Any], threads: int, images: list[str], confidence: float) -> None:
        """Open the model; `model` says its runtime, path, adapter and image size."""
        cv2.setNumThreads(threads)
        self.before_bytes = psutil.Process().memory_info().rss
        self.network = _open(model, threads)
        self.images, self.confidence, self.next = [Path(image) for image in images], confidence, 0
        self.takes_pixels = getattr(self.network, "takes_pixels", False)
        self.run = self.network.run_pixels if self.takes_pixels else self.network
        self.batch = self.network.batch or 1
        self.picture = self._filled(self._placed(read_image(self.images[0]))[0])

    def turn(self, *, calls: int, warm_up: int) -> dict[str, Any]:
        """Time some calls of the network alone, then some whole frames; the first few of each do not count.

        Returns:
            `network`: seconds a picture of a call; `frames`: seconds of each part of each frame; `cpu`: seconds of
            processor time. A file that takes several pictures at once is given as many, and a picture has its share.
        """
        before = time.process_time()
        network = []
        for _ in range(warm_up + calls):
            started = time.perf_counter()
            self.run(self.picture)
            network.append((time.perf_counter() - started) / self.batch)
        frames = [self._frame() for _ in range(warm_up + calls)]
        return {"network": network[warm_up:], "frames": frames[warm_up:], "cpu": time.process_time() - before}

    def _frame(self) -> list[float]:
        path = self.images[self.next % len(self.images)]
        self.next += 1
        times = [time.perf_counter()]
        pixels = read_image(path)
        times.append(time.perf_counter())
        picture, placement = self._placed(pixels)
        filled = self._filled(picture)
        times.append(time.perf_counter())
        outputs = self.run(filled)
        times.append(time.perf_counter())
        self.network.task.decode(
            one_image(outputs, 0),
            nms=self.network.nms,
            confidence=self.confidence,
            iou_threshold=IOU_THRESHOLD,
            placement=placement,
        )
        times.append(time.perf_counter())
        parts = np.diff(times)
        parts[PARTS.index("network")] /= self.batch
        return parts.tolist()

    def _filled(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return a picture as often as the file takes pictures at once."""
        return picture if self.batch == 1 else np.repeat(picture, self.batch, axis=0)

    def _placed(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], Placement]:
        """Return the network's input, (1, 3, S, S) float32 or (1, S, S, 3) uint8, and where the image lies in it."""
        square, placement = self.network.task.place(pixels, self.network.image_size)
        one = cv2.cvtColor(square, cv2.COLOR_BGR2RGB) if self.takes_pixels else as_tensor(square)
        return one[None], placement


def _open(model: Mapping[str, Any], threads: int) -> Any:
    if model["runtime"] != "torch":
        from visionlora.runtime import open_exported

        return open_exported(model["path"], model["runtime"], threads=threads)
    import torch

    from visionlora.vision.inference import try_out

    family = family_of(model["path"])
    torch.set_num_threads(threads)
    with trusted(model["trust"]):
        network = family.open(model["path"], adapter=model["adapter"], image_size=model["image_size"])
    try_out(network)
    return network


def peak_bytes() -> int:
    """Return the most memory that this process has held (resident set)."""
    try:  # not getrusage: its peak is inherited from the parent on Linux
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        memory = psutil.Process().memory_info()
        if hasattr(memory, "peak_wset"):  # Windows
            return int(memory.peak_wset)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a runtime that prints must not disturb the answers
    stage: Stage | None = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "turn" in order and stage is not None:
                answer = stage.turn(**order["turn"])
            elif "open" in order:
                stage = Stage(**order["open"])
                network = stage.network
                answer = {"image_size": network.image_size, "batch": stage.batch, "precision": network.precision}
            else:
                answer = {"peak_bytes": peak_bytes(), "before_bytes": stage.before_bytes if stage else 0}
        except VisionLoraError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
