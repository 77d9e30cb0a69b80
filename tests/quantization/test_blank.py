"""Calibration pictures that show nothing are named, or refused where there are no others."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from visionlora.errors import DataError
from visionlora.quantization import quantize, quantizing


def blacken(data: Path, folder: Path, count: int) -> Path:
    """Copy a data set and make the first pictures of train black, with a sensor's noise."""
    shutil.copytree(data.parent, folder)
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images" / "train").iterdir())[:count]:
        cv2.imwrite(str(path), rng.integers(0, 3, (48, 64, 3), dtype=np.uint8))
    return folder / data.name


def test_black_calibration_pictures_are_counted_and_one_named(data, model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "visionlora"):
        quantize(model, blacken(data, tmp_path / "data", 3), tmp_path / "int8.onnx", images=12)

    [message] = [record.getMessage() for record in caplog.records if "of one colour" in record.getMessage()]
    assert message.startswith("3 of 12 calibration pictures") and "00.png" in message


def test_calibration_pictures_that_are_all_black_are_refused(data, model, tmp_path):
    with pytest.raises(DataError, match="got 12 of nearly one colour"):
        quantize(model, blacken(data, tmp_path / "data", 12), tmp_path / "int8.onnx", images=12)
    assert not (tmp_path / "int8.onnx").exists()


def test_ordinary_pictures_raise_no_warning(data, model, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(quantizing, "sums_saturate", lambda: False)
    with caplog.at_level(logging.WARNING, "visionlora"):
        quantize(model, data, tmp_path / "int8.onnx", images=12)
    assert not caplog.records
