"""The prepare scripts as modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture
def load_script() -> Callable[[str], ModuleType]:
    """Import `datasets/<name>/prepare.py`, which lies in no package."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            "prepare_" + name.replace("-", "_"), DATASETS / name / "prepare.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def write_image() -> Callable[[Path, int], None]:
    """Write a 20x20 picture of noise."""

    def write(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)

    return write


@pytest.fixture
def readme_counts() -> Callable[[str], dict[str, tuple[int, int]]]:
    """Return the table of a README: train and val count by row name."""

    def read(name: str) -> dict[str, tuple[int, int]]:
        rows = {}
        for line in (DATASETS / name / "README.md").read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 3 and cells[1].isdigit():
                rows[cells[0]] = (int(cells[1]), int(cells[2]))
        return rows

    return read
