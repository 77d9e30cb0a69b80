"""A tiny data set and a tiny detector to calibrate on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.quantization.graphs import NAMES, detector, save


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of 12 pictures of noise; only the eighth shows the class inclusion."""
    root = tmp_path_factory.mktemp("data")
    (root / "images" / "train").mkdir(parents=True)
    (root / "labels" / "train").mkdir(parents=True)
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / "train" / f"{index:02}.png"), cv2.resize(pixels, (64, 48)))
        class_id = 2 if index == 7 else index % 2
        (root / "labels" / "train" / f"{index:02}.txt").write_text(f"{class_id} 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames: {list(NAMES)}\n")
    return root / "data.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a tiny detector."""
    return save(detector(), tmp_path / "model.onnx")
