"""Damaged adapters end in an error of ours, whatever is damaged."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.mutants import damaged, damaged_json
from visionlora.adapters import (
    AdapterCard,
    AdapterSettings,
    ArrayAdapter,
    FoldedBase,
    FoldedNorm,
    adapter_identity,
    load_arrays,
    read_folded_base,
    save_arrays,
)
from visionlora.adapters.folded_base import ENTRY
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import load_adapter
from visionlora.cards import preprocessing_card
from visionlora.errors import AdapterError, VisionLoraError
from visionlora.tasks import DETECT
from visionlora.workflows.combining import merge_adapters, rank_adapter, scale_adapter

TENSORS = {
    "model.0.conv.lora_A.weight": np.ones((2, 3, 3, 3), np.float16),
    "model.0.conv.lora_B.weight": np.ones((4, 2, 1, 1), np.float16),
    "model.0.conv.bias_delta": np.ones(4, np.float16),
    "model.1.weight": np.ones((2, 4), np.float16),
}
CARD = AdapterCard(
    settings=AdapterSettings(LoRA(rank=2)),
    names=("scratch", "pit"),
    base={"name": "base.pt", "fingerprint": "ab" * 32},
    preprocessing=preprocessing_card(96),
    training={"epochs": 3, "hyperparameters": {"lr0": 0.1}},
    scores={"map50_95": 0.5},
    version="0.3.0",
    quantization={"format": 1, "adapter": "cd" * 32, "recipe": {"ranges": {"a": [0, 1]}}},
    task=DETECT.name,
)


@pytest.fixture
def path(tmp_path) -> Path:
    """Return a small adapter."""
    save_arrays(ArrayAdapter(CARD, TENSORS), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def read_in_every_way(path: Path) -> int:
    """Read a file with every reader of adapters; return how many took it."""
    taken = 0
    for read in (
        load_arrays,
        load_adapter,
        adapter_identity,
        lambda path: scale_adapter(path, path.with_name("scaled.safetensors"), factor=0.5, overwrite=True),
        lambda path: rank_adapter(path, path.with_name("ranked.safetensors"), rank=1, overwrite=True),
        lambda path: merge_adapters([path, path], path.with_name("merged.safetensors"), rank=2, overwrite=True),
    ):
        with suppress(VisionLoraError):
            read(path)
            taken += 1
    return taken


def test_whole_adapter_is_taken_by_all(path) -> None:
    assert read_in_every_way(path) == 6


def test_damaged_files(path) -> None:
    taken = 0
    for mutant in damaged(path.read_bytes(), 350):
        path.write_bytes(mutant)
        taken += read_in_every_way(path) > 0
    assert taken < 20  # a flipped bit in the name of the checksum's entry


def test_damaged_cards(path) -> None:
    """Of files without a checksum: older versions wrote none."""
    for mutant in damaged_json(json.loads(CARD.to_json()), 200):
        path.write_bytes(save(TENSORS, metadata={"visionlora": mutant.decode()}))
        read_in_every_way(path)


def test_damaged_headers(path) -> None:
    content = save(TENSORS, metadata={"visionlora": CARD.to_json()})
    end = 8 + int.from_bytes(content[:8], "little")
    for mutant in damaged_json(json.loads(content[8:end]), 300):
        path.write_bytes(len(mutant).to_bytes(8, "little") + mutant + content[end:])
        read_in_every_way(path)


def test_damaged_entries_of_a_base() -> None:
    vector = np.ones(4, np.float32)
    norm = FoldedNorm(vector, vector, vector, np.zeros((4, 3, 3, 3), np.int8))
    whole = FoldedBase("base.pt", "ab" * 32, {"model.0.conv": norm}, ("model.1",), ("model.1",), ()).to_entry()
    for mutant in damaged(whole.encode(), 350):
        with suppress(VisionLoraError):
            read_folded_base({ENTRY: mutant.decode("latin-1")}, "base.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sort"}, "task: expected detect or segment or pose or obb or classify, got 'sort'"),
        ({"preprocessing": {**preprocessing_card(96), "padding": 0}}, r"preprocessing: expected .*'padding': 114"),
        (
            {"preprocessing": {**preprocessing_card(96), "channels": "BGR"}},
            r"expected .*'channels': 'RGB'.*got .*'BGR'",
        ),
        ({"preprocessing": {**preprocessing_card(96), "mean": 0.5}}, "preprocessing: expected"),
        ({"preprocessing": {"image_size": True}}, "image_size in pixels"),
        ({"names": "pit"}, "class names"),
        ({"names": ["\ud800"]}, "surrogate"),
        ({"settings": {"alpha": 10**400}}, "cannot be read"),
    ],
)
def test_adapter_that_nobody_here_can_use_is_refused(change, message, path) -> None:
    card = json.dumps(json.loads(CARD.to_json()) | change)
    path.write_bytes(save(TENSORS, metadata={"visionlora": card}))
    with pytest.raises(AdapterError, match=rf"a\.safetensors: .*{message}"):
        load_arrays(path)
