"""Tiny data sets in Ultralytics' layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("YOLO_OFFLINE", "true")

WriteImage = Callable[..., Path]


@pytest.fixture
def write_image() -> WriteImage:
    """Write a picture of noise; `orientation` is its EXIF tag."""

    def write(
        path: Path, *, size_wh: tuple[int, int] = (64, 48), seed: int = 0, orientation: int | None = None
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size_wh
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, **({} if orientation is None else {"exif": exif}))
        return path

    return write


@pytest.fixture
def root(tmp_path: Path, write_image: WriteImage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound data set: two training images, two validation images, three classes. It is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit, patch]\n")
    for split, seed in (("train", 0), ("val", 2)):
        (tmp_path / "labels" / split).mkdir(parents=True)
        for name in ("a", "b"):
            write_image(tmp_path / "images" / split / f"{name}.jpg", seed=seed + ord(name))
            (tmp_path / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return tmp_path
