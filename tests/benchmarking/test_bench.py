"""Measuring models in turns: every part is there, ratios are to the first, and what cannot be measured is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from tests.tiny_onnx import write_detector
from visionlora.benchmarking import bench
from visionlora.benchmarking.contestant import Contestant
from visionlora.cli import main
from visionlora.errors import DataError, ModelError, OutputError, UsageError
from visionlora.models import parse_spec
from visionlora.progress import Progress, progress_to


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "tiny.onnx")


def test_real_networks_are_measured_and_the_larger_is_slower(tiny, exported, picture) -> None:
    """The one test that looks at real time: the networks are so unlike that no other load turns them round."""
    result = bench([tiny, exported.path], image=picture, threads=[1], rounds=5)
    first, second = result.rows
    assert second.faster < 1 and first.faster == 1
    assert list(second.parts) == ["read", "letterbox", "network", "decode"] and min(second.parts.values()) > 0
    assert second.bytes_ratio == pytest.approx(exported.bytes / tiny.stat().st_size, abs=1e-3)
    assert len(second.turns_ms) == 5 and result.calls == 25


def test_pictures_of_a_data_set_are_taken_whatever_their_labels_hold(tiny, tmp_path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((48, 80, 3), dtype=np.uint8))
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2\n")  # of another task than boxes
    data = tmp_path / "data.yaml"
    data.write_text("path: .\nval: images\nnames: [a]\n")

    assert bench([tiny], data=data, threads=[1], rounds=1).pictures == "1 picture (png) of 80 x 48"
    with pytest.raises(DataError, match=r"data\.yaml: expected pictures in split 'test', found none"):
        bench([tiny], data=data, split="test", threads=[1], rounds=1)


def test_model_against_itself_takes_as_much_memory(exported, picture) -> None:
    rows = bench([f"a={exported.path}", f"b={exported.path}"], image=picture, threads=[1], rounds=1).rows
    assert abs(rows[0].peak_bytes - rows[1].peak_bytes) < 0.2 * rows[0].peak_bytes


def test_memory_is_that_of_one_model_and_not_of_the_caller(tiny, picture) -> None:
    here = np.ones(400_000_000, dtype=np.uint8)  # 400 MB that no worker has
    (row,) = bench([tiny], image=picture, threads=[1], rounds=1).rows
    assert 0 < row.before_bytes < row.peak_bytes < 300e6 < here.nbytes


def test_process_stands_still_between_its_turns(tiny, picture) -> None:
    one = Contestant(parse_spec(tiny), 2, [picture], image_size=None, confidence=0.25)
    try:
        process = psutil.Process(one._process.pid)
        assert comes_to_rest(process)
        one.take_turn(calls=3, warm_up=1)
        assert comes_to_rest(process) and [len(turn) for turn in one.turns.network] == [3]
    finally:
        one.close()
    assert not psutil.pid_exists(process.pid)


def test_what_is_measured_loads_what_a_device_does(tiny, picture) -> None:
    """Its peak of memory is a deployment's: no scores, no reports, no data sets."""
    model = {"runtime": "onnxruntime", "path": str(tiny)}
    code = f"""
import sys
from visionlora.benchmarking.worker import Stage
stage = Stage(model={model}, threads=1, images=[{str(picture)!r}], confidence=0.25)
stage.turn(calls=1, warm_up=0)
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"matplotlib", "pycocotools", "pydantic", "jinja2", "PIL", "torch"}
    assert not loaded & {f"visionlora.{room}" for room in ("data", "models", "reporting", "scoring")}


def comes_to_rest(process: psutil.Process) -> bool:
    """Whether a process is stopped and uses no processor time, perhaps after a moment: signals take one."""
    for _ in range(50):
        before = process.cpu_times()
        time.sleep(0.1)
        if process.status() == psutil.STATUS_STOPPED and process.cpu_times() == before:
            return True
    return False


def test_openvino_runs_the_same_file(tiny, picture) -> None:
    pytest.importorskip("openvino")
    rows = bench([tiny, f"openvino:{tiny}"], image=picture, threads=[1], rounds=1).rows
    assert [(row.label, row.runtime) for row in rows] == [
        ("tiny.onnx", "onnxruntime"),
        ("openvino:tiny.onnx", "openvino"),
    ]


def test_checkpoint_is_measured_too(checkpoint, picture) -> None:
    (row,) = bench([checkpoint], image=picture, threads=[1], imgsz=64, rounds=1).rows
    assert (row.runtime, row.image_size) == ("torch", 64)


def test_library_that_is_missing_is_named(tiny, picture, tmp_path, monkeypatch) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "openvino.py").write_text("raise ModuleNotFoundError('no openvino', name='openvino')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    with pytest.raises(ModelError, match="OpenVINO is not installed; pip install openvino"):
        bench([f"openvino:{tiny}"], image=picture, threads=[1])


def test_file_that_cannot_be_read_is_named_and_no_process_is_left(tiny, picture, tmp_path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"broken\.onnx: expected an ONNX file"):
        bench([tiny, broken], image=picture, threads=[1])
    assert not [child for child in psutil.Process().children() if "benchmarking.worker" in " ".join(child.cmdline())]


def test_process_that_dies_is_told_with_its_last_words(tiny, picture) -> None:
    one = Contestant(parse_spec(tiny), 1, [picture], image_size=None, confidence=0.25)
    one._process.kill()
    with pytest.raises(ModelError, match=r"tiny\.onnx: the process that ran it in onnxruntime died"):
        one._ask({"memory": {}})
    one.close()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": [0]}, UsageError, "--threads: expected counts of at least 1"),
        ({"threads": []}, UsageError, "--threads: expected counts of at least 1"),
        ({"rounds": 0}, UsageError, "--rounds: expected at least 1, got 0"),
        ({"image": "a.jpg", "data": "data.yaml"}, UsageError, "got both"),
        ({"image": "nothing/*.jpg"}, DataError, "found no image"),
    ],
    ids=["no thread", "no count", "no round", "two sources", "no picture"],
)
def test_options_that_mean_nothing_are_refused(tiny, options, error, message) -> None:
    with pytest.raises(error, match=message):
        bench([tiny], **options)


def test_missing_files_are_listed_together(tiny, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"found none at .*a\.onnx, .*b\.onnx"):
        bench([tiny, tmp_path / "a.onnx", tmp_path / "b.onnx"])


def test_busy_machine_is_told(tiny, picture) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        noise = bench([tiny], image=picture, threads=[1], rounds=20).noise
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert any("other processes used" in sentence for sentence in noise)


def test_command_writes_json_and_prints_a_table(tiny, tmp_path, capsys) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", "--model", str(tiny), "--threads", "1,2", "--rounds", "1", "--out", str(out)]
    assert main(command) == 0
    written, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert [row["threads"] for row in written["rows"]] == [1, 2] and written["format"] == 1
    assert "1 picture (drawn JPEG) of 1280 x 720" in printed and printed.count("| `tiny.onnx` |") == 2
    assert f"{written['rows'][0]['network']['median']:.1f} (" in printed
    with pytest.raises(OutputError, match="exists already"):
        bench([tiny], out=out)


def test_rounds_are_reported_one_by_one(tiny, picture) -> None:
    events: list[Progress] = []
    with progress_to(events.append):
        bench([tiny], image=picture, threads=[1], rounds=2)
    assert events == [Progress("bench", done, 2, "", "round") for done in range(3)]
