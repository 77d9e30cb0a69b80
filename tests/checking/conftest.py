"""A tiny data set in Ultralytics' layout: two pictures of noise in train, two in val."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


def write_noise(path: Path, seed: int, size_wh: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit]\n")
    for split, seed in (("train", 0), ("val", 9)):
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index, name in enumerate("ab"):
            write_noise(tmp_path / "images" / split / f"{name}.jpg", seed + index)
            (tmp_path / "labels" / split / f"{name}.txt").write_text(f"{index} 0.5 0.5 0.5 0.5\n")
    return tmp_path
