"""A damaged float model or recipe ends in a result or in an error of ours, never in a traceback."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import pytest

from tests.mutants import damaged
from tests.quantization.graphs import detector, save
from visionlora.errors import VisionLoraError
from visionlora.int8 import QuantizationRecipe
from visionlora.int8.scheme import X86
from visionlora.quantization import build_int8, calibrate
from visionlora.quantization.float_detector import load_float_detector

SECONDS = 10
"""That the reading of one damaged file may take."""


@pytest.fixture(scope="module")
def recipe() -> QuantizationRecipe:
    return calibrate(detector(), [np.full((1, 3, 64, 64), 0.5, np.float32)], X86)


@pytest.mark.slow
def test_damaged_float_models_end_in_a_result_or_an_error(tmp_path: Path, recipe: QuantizationRecipe) -> None:
    path = tmp_path / "model.onnx"
    content = save(detector(), path).read_bytes()
    refused = 0
    for mutant in damaged(content, 300):
        path.write_bytes(mutant)
        started = time.monotonic()
        try:
            source = load_float_detector(path)
            build_int8(source, calibrate(source.model, [np.full((1, 3, 64, 64), 0.5, np.float32)], X86))
        except VisionLoraError:
            refused += 1
        assert time.monotonic() - started < SECONDS
    assert refused > 100


def test_damaged_recipes_end_in_a_recipe_or_an_error(recipe: QuantizationRecipe) -> None:
    for mutant in damaged(recipe.to_json().encode(), 500):
        with contextlib.suppress(VisionLoraError):
            QuantizationRecipe.from_json(mutant.decode("utf-8", "surrogateescape")).to_json().encode()
