"""The folder of a run: an adapter that was trained, with its report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from visionlora.workflows.evaluating import evaluate


@pytest.fixture(scope="session")
def run(adapter: Path, checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an adapter, its curves, and its report."""
    folder = tmp_path_factory.mktemp("publishing") / "steel"
    folder.mkdir()
    for name in ("adapter.safetensors", "curves.png", "results.csv"):
        shutil.copy(adapter.parent / name, folder)
    evaluate([f"{checkpoint}+{folder / 'adapter.safetensors'}"], surface, imgsz=96, out=folder)
    return folder


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "own"))
