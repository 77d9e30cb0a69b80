"""Hours at the line: no memory, thread or file is lost, and frame 8,000 is judged as frame 1 was."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter

import numpy as np
import psutil
import pytest

import visionlora as vl
from tests.patching.conftest import random_adapter
from visionlora.runtime import stream
from visionlora.vision.preprocess import read_image

FRAMES, PICTURES, SHIFT = 8_000, 6, 250
LOW = 0.001
WARM = 2_000
"""Frames after which caches and allocators have their size."""


def same(one: vl.Detections, other: vl.Detections) -> bool:
    parts = ("boxes_xyxy", "scores", "class_ids")
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


@pytest.mark.slow
def test_thousands_of_frames_with_changing_adapters_leave_nothing_behind(
    base_onnx, checkpoint, adapter, surface, tmp_path
):
    bank = vl.AdapterBank(base_onnx, limit=2, threads=1)
    bank.add("surface", adapter)
    bank.add("two", random_adapter(checkpoint, tmp_path / "two.safetensors"))
    lines = ("surface", "two")
    pictures = [read_image(path) for path in sorted((surface.parent / "images" / "val").iterdir())[:PICTURES]]
    expected = {
        bank.use(line).names: [bank.use(line).predict(picture, confidence=LOW) for picture in pictures]
        for line in lines
    }
    assert all(sum(map(len, found)) for found in expected.values())
    process, before = psutil.Process(), (threading.active_count(), psutil.Process().num_fds())
    now, memory = {"line": lines[0]}, []
    shifts, wrong = Counter[tuple[str, ...]](), 0

    def find(pixels: np.ndarray) -> vl.Detections:
        return bank.use(now["line"]).predict(pixels, confidence=LOW)

    camera = itertools.islice(itertools.cycle(pictures), FRAMES)
    for frame, found in stream(camera, find, workers=2):
        if frame.index % SHIFT == 0:
            now["line"] = lines[frame.index // SHIFT % 2]
        if frame.index >= WARM and frame.index % 1000 == 0:
            gc.collect()
            memory.append(process.memory_info().rss)
        shifts[found.names] += 1
        wrong += not same(found, expected[found.names][frame.index % PICTURES])

    assert wrong == 0 and shifts.total() == FRAMES and min(shifts.values()) > 0.45 * FRAMES
    # A picture kept of each frame would be hundreds of megabytes; the heap after other tests grows in steps.
    assert max(memory) - memory[0] < 80e6, [round(one / 1e6, 1) for one in memory]
    assert (threading.active_count(), process.num_fds()) == before
