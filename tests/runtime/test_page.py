"""docs/runtime.md: its Python runs as it stands, and the numbers it names are the code's."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path

import cv2
import pytest

import visionlora as vl
from visionlora.vision.detections import IOU_THRESHOLD, MAX_DETECTIONS, PREDICTION_CONFIDENCE
from visionlora.vision.preprocess import MAX_FILE_BYTES, MAX_PIXELS

PAGE = (Path(__file__).parents[2] / "docs" / "runtime.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_its_python_runs(block, exported, surface, tmp_path, monkeypatch, capsys) -> None:
    pictures = sorted((surface.parent / "images" / "val").iterdir())
    shutil.copy(exported.path, tmp_path / "model.int8.onnx")
    cv2.imwrite(str(tmp_path / "picture.jpg"), cv2.imread(str(pictures[0])))
    shutil.copytree(pictures[0].parent, tmp_path / "line3")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace('"model.int8.onnx"', '"model.int8.onnx", confidence=0.01'), "runtime.md", "exec"), {})
    assert capsys.readouterr().out


def test_its_defaults_are_those_of_the_code() -> None:
    stream = inspect.signature(vl.Detector.stream).parameters
    assert f"the queue ({stream['queue'].default})" in PAGE and f"({stream['reconnect'].default:g}; `math.inf`" in PAGE
    assert MAX_PIXELS // 10**6 == 134 and MAX_FILE_BYTES == 1 << 30
    assert f"else {PREDICTION_CONFIDENCE}" in PAGE and f"{IOU_THRESHOLD}, {MAX_DETECTIONS}" in PAGE


def test_the_measured_table_is_that_of_the_committed_results(monkeypatch) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "runtime"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("benchmarks_runtime_run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads((folder / "results.json").read_text())["results"]
    assert module.summary(results) in (folder / "README.md").read_text(encoding="utf-8")
