"""What a file costs that keeps its base: held to the file itself; targets that cannot stand beside a base."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx
import pytest

from tests.patching.conftest import random_adapter
from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import ConvAdapter, LoRA
from visionlora.detectors.ultralytics import load_base
from visionlora.errors import UsageError
from visionlora.exporting import export
from visionlora.training.keeping import MOST, check_kept_settings, default_start, kept_costs, kept_lines


@pytest.fixture(scope="module")
def base(checkpoint):
    return load_base(checkpoint)


@pytest.fixture(scope="module")
def costs(base):
    return kept_costs(base, 96)


def test_bytes_are_those_of_the_file(base, costs, checkpoint, tmp_path) -> None:
    settings = AdapterSettings(LoRA(rank=2), "from:16")
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors", names=base.names, settings=settings)
    kept = export(checkpoint, tmp_path / "kept.onnx", adapter=adapter, keep="exact")
    (cost,) = [cost for cost in costs if cost.start == 16]
    constants = onnx.load(kept.path).graph.initializer
    weights = 4 * sum(math.prod(each.dims) for each in constants if each.name.endswith((".weight", ".bias")))
    assert weights == pytest.approx(cost.bytes, rel=0.001)  # the file's decoding has no convolution


def test_the_default_is_the_first_module_that_costs_at_most_half(costs) -> None:
    starts, ratios = [cost.start for cost in costs], [cost.ratio for cost in costs]
    assert starts[0] == 1 and ratios == sorted(ratios, reverse=True) and 1 < ratios[-1] < ratios[0] < 2
    start = default_start(costs)
    assert start == next(cost.start for cost in costs if cost.ratio <= MOST)
    assert f"| from:{start} (default) |" in "\n".join(kept_lines(costs)) and kept_lines(()) == []
    assert check_kept_settings(AdapterSettings(), costs).targets == f"from:{start}"


@pytest.mark.parametrize("targets", ["backbone", "from:0", "from:99", "to:5", "neck+backbone", r"model\.22\..*"])
def test_targets_that_reach_the_first_layers_are_refused(targets, costs) -> None:
    with pytest.raises(UsageError, match="expected from:N with N from 1 to 23, neck or head"):
        check_kept_settings(AdapterSettings(targets=targets), costs)


def test_what_a_patch_cannot_put_in_is_refused(base, costs) -> None:
    settings = AdapterSettings(ConvAdapter(rank=2), targets="head", activation="relu")
    with pytest.raises(UsageError, match="cannot be with --method conv-adapter, --activation relu"):
        check_kept_settings(settings, costs)
    with pytest.raises(UsageError, match="expected an Ultralytics detector of boxes"):
        kept_costs(replace(base, family="torchvision"), 96)
