"""A tiny data set and a tiny detector to calibrate on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.quantization.graphs import NAMES, detector, save


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of 12 pictures of noise, the eighth alone of the class inclusion, and of two others as val."""
    root = tmp_path_factory.mktemp("data")
    for split, indices in (("train", range(12)), ("val", range(12, 14))):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for index in indices:
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{index:02}.png"), cv2.resize(pixels, (64, 48)))
            class_id = 2 if index == 7 else index % 2
            (root / "labels" / split / f"{index:02}.txt").write_text(f"{class_id} 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES)}\n")
    return root / "data.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a tiny detector."""
    return save(detector(), tmp_path / "model.onnx")
