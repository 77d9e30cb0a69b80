"""Damaged files of every kind that the runtime reads: a result or a VisionLoraError, in little time and memory.

Each kind is read in a process of its own with a limit of memory, because a native library could end it.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.tiny_onnx import NAMES, write_detector

ROOT = Path(__file__).parents[2]
MEMORY = 4 << 30
"""Bytes of address space, of which libraries reserve a part that they never touch."""
STOCK = {
    "task": "detect",
    "names": str(dict(enumerate(NAMES))),
    "imgsz": "[64, 64]",
    "batch": "1",
    "args": "{'nms': 0}",
}
FIELDS = {"task": "detect", "imgsz": [64, 64], "names": dict(enumerate(NAMES)), "batch": 1, "args": {"nms": False}}
READER = """
import sys, time
from pathlib import Path
import numpy as np
from visionlora.errors import VisionLoraError
{imports}
read = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    started = time.process_time()
    try:
        {call}
        read += 1
    except VisionLoraError:
        pass
    assert time.process_time() - started < 10, path.name
print("done", read)
"""


def mutants(content: bytes, count: int, seed: int) -> list[bytes]:
    """Bytes changed, cut out, repeated or cut off; text is hit as often as it is long."""
    generator, made = random.Random(seed), []
    for _ in range(count):
        data, kind = bytearray(content), generator.randrange(5)
        start = generator.randrange(len(data))
        length = generator.choice((1, 2, 4, 8, 64, 1000))
        if kind == 0:
            for _ in range(generator.choice((1, 2, 5))):
                data[generator.randrange(len(data))] = generator.randrange(256)
        elif kind == 1:
            del data[start : start + length]
        elif kind == 2:
            data[start:start] = data[start : start + length] * generator.choice((1, 3, 50))
        elif kind == 3:
            del data[start:]
        else:
            data[start : start + length] = generator.choice((b"\0", b"\xff", b"9", b"[", b"-", b"&a")) * length
        made.append(bytes(data))
    return made


def read_all(folder: Path, imports: str, call: str) -> None:
    """Read each entry of a folder in a process with a limit of memory."""
    code = READER.replace("{imports}", imports).replace("{call}", call)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        preexec_fn=limit,
        check=False,
    )
    last = run.stdout.strip().splitlines()[-1:] or [""]
    assert run.returncode == 0 and last[0].startswith("done"), f"{last[0]}: {run.returncode}\n{run.stderr[-2000:]}"
    assert int(last[0].split()[1]) > 0, "none was read: the test is broken"


def write_mutants(folder: Path, content: bytes, suffix: str, count: int, seed: int) -> Path:
    folder.mkdir()
    for number, data in enumerate(mutants(content, count, seed)):
        (folder / f"{number:04d}{suffix}").write_bytes(data)
    return folder


@pytest.mark.parametrize("properties", [None, STOCK], ids=["own", "stock"])
def test_onnx_files(tmp_path, properties):
    whole = write_detector(tmp_path / "whole.onnx", properties=properties).read_bytes()
    folder = write_mutants(tmp_path / "in", whole, ".onnx", 200, seed=1)
    call = "Detector(path, threads=1).predict(np.zeros((48, 64, 3), np.uint8))"
    read_all(folder, "from visionlora.runtime import Detector", call)


def test_metadata_of_onnx_files(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(150):
        key = list(STOCK)[number % len(STOCK)]
        (damaged,) = mutants(STOCK[key].encode(), 1, seed=number)
        properties = {**STOCK, key: damaged.decode("utf-8", "replace")}
        batch = "batch" if number % 2 else 1
        write_detector(tmp_path / "in" / f"{number:04d}.onnx", batch=batch, properties=properties)
    call = "Detector(path, threads=1).predict(np.zeros((48, 64, 3), np.uint8))"
    read_all(tmp_path / "in", "from visionlora.runtime import Detector", call)


@pytest.mark.parametrize("name", ["described_inside", "described_beside"])
def test_descriptions(tmp_path, name):
    if name == "described_inside":
        whole = write_detector(tmp_path / "whole.onnx", properties=STOCK).read_bytes()
        folder, call = write_mutants(tmp_path / "in", whole, ".onnx", 200, seed=2), "described_inside(path)"
    else:
        text = yaml.safe_dump({**FIELDS, "visionlora": json.dumps({"names": NAMES, "preprocessing": {}})}).encode()
        plain = yaml.safe_dump(FIELDS).encode()
        folder = models(tmp_path / "in", ".xml", b"<net/>", [*mutants(text, 150, 3), *mutants(plain, 150, 4)])
        call = "described_beside(path / 'model.xml')"
    read_all(folder, f"from visionlora.runtime.description import {name}", call)


def models(folder: Path, suffix: str, model: bytes, descriptions: list[bytes]) -> Path:
    """A folder a description, with a model beside it."""
    for number, description in enumerate(descriptions):
        place = folder / f"{number:04d}"
        place.mkdir(parents=True)
        (place / f"model{suffix}").write_bytes(model)
        (place / "model.bin").write_bytes(b"")
        (place / "metadata.yaml").write_bytes(description)
    return folder


PARAM = """7767517
3 3
Input            in0      0 1 in0
Convolution      conv     1 1 in0 1 0=7 1=8 3=8 5=1 6=1344
Reshape          rows     1 1 1 out0 0=64 1=7
"""


def test_ncnn_files(tmp_path):
    pytest.importorskip("ncnn")
    weights = np.concatenate([[0], np.random.default_rng(0).normal(0, 0.1, 1344 + 7)]).astype(np.float32).tobytes()
    description = yaml.safe_dump(FIELDS).encode()
    folder = tmp_path / "in"
    for number, param in enumerate([PARAM.encode(), *mutants(PARAM.encode(), 150, seed=5)]):
        place = folder / f"{number:04d}"
        place.mkdir(parents=True)
        (place / "model.param").write_bytes(param)
        (place / "model.bin").write_bytes(weights)
        (place / "metadata.yaml").write_bytes(description)
    call = "network = NcnnNetwork(path / 'model.param', threads=1); network(np.zeros((1, 3, 64, 64), np.float32))"
    read_all(folder, "from visionlora.runtime import NcnnNetwork", call)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_pictures(tmp_path, suffix):
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8), (40, 30))
    folder = write_mutants(tmp_path / "in", cv2.imencode(suffix, pixels)[1].tobytes(), suffix, 200, seed=6)
    read_all(folder, "from visionlora.runtime.pictures import pixels_of", "pixels_of(path)")


def test_videos(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    writer.release()
    folder = write_mutants(tmp_path / "in", (tmp_path / "a.avi").read_bytes(), ".avi", 100, seed=7)
    read_all(folder, "from visionlora.runtime.video import read_video", "sum(1 for _ in read_video(str(path)))")
