"""A checkpoint is read without running it: what no detector needs is refused by name, unless it is trusted."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import v8DetectionLoss

import visionlora as vl
from tests.hostile import KINDS, Harmless
from visionlora.detectors.ultralytics import load_base
from visionlora.detectors.ultralytics.unpickling import read_restricted
from visionlora.errors import ModelError
from visionlora.trust import is_trusted


@pytest.fixture
def content(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(kind: str, content, tmp_path: Path) -> None:
    write, named = KINDS[kind]
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    path.write_bytes(write(content, marker))
    with pytest.raises(ModelError, match=rf"refused: it needs .*{named}.*--trust"):
        load_base(path)
    assert not marker.exists()


@pytest.mark.parametrize("entry", [DetectionModel, (DetectionModel, "ultralytics.nn.tasks.DetectionModel")])
def test_a_layer_that_the_process_allows_is_not_built_either(entry, content, tmp_path: Path) -> None:
    write, named = KINDS["built from a description"]
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    path.write_bytes(write(content, marker))
    with torch.serialization.safe_globals([entry]):
        for _ in range(8):  # of two entries with one name torch takes either
            with pytest.raises(ModelError, match=named):
                load_base(path)
        assert torch.serialization.get_safe_globals().count(entry) == 1
    assert not marker.exists()


def test_a_refusal_says_how_to_load_it_anyway(content, tmp_path: Path) -> None:
    torch.save({**content, "note": argparse.Namespace()}, tmp_path / "own.pt")
    with pytest.raises(ModelError, match=r"it needs argparse.Namespace, .* --trust .* loads it anyway"):
        load_base(tmp_path / "own.pt")


def test_what_is_trusted_is_loaded_and_only_inside_the_block(content, tmp_path: Path) -> None:
    content["model"].model[0].note = Harmless()
    torch.save(content, tmp_path / "own.pt")
    with vl.trusted():
        base = load_base(tmp_path / "own.pt")
        with vl.trusted(False):
            assert is_trusted()
    assert isinstance(base.model.model[0].note, Harmless) and not is_trusted()
    with pytest.raises(ModelError, match="Harmless"):
        load_base(tmp_path / "own.pt")


def test_layers_are_the_ordinary_ones_afterwards(content, checkpoint: Path) -> None:
    restricted = read_restricted(checkpoint)["model"]
    kinds = [(name, type(module)) for name, module in content["model"].named_modules()]
    assert [(name, type(module)) for name, module in restricted.named_modules()] == kinds
    expected = content["model"].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in restricted.state_dict().items())


def test_what_trainings_leave_in_checkpoints_is_read(content, checkpoint: Path, tmp_path: Path) -> None:
    content["model"].args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    content["model"].criterion = v8DetectionLoss(content["model"].float())
    content |= {"best_fitness": np.float64(0.25), "save_dir": tmp_path, "ema": content["model"], "model": None}
    content["optimizer"] = torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict()
    torch.save(content, tmp_path / "last.pt")
    read = read_restricted(tmp_path / "last.pt")
    assert (read["best_fitness"], read["save_dir"]) == (0.25, str(tmp_path))
    assert type(read["ema"].criterion) is v8DetectionLoss
    assert load_base(tmp_path / "last.pt").fingerprint == load_base(checkpoint).fingerprint


def test_the_older_format_which_brings_code_is_refused(content, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"refused: .* before 1.6 .* --trust"):
        load_base(tmp_path / "old.pt")
    with vl.trusted():
        assert load_base(tmp_path / "old.pt").fingerprint == load_base(checkpoint).fingerprint


def test_nothing_stays_allowed_in_the_process(checkpoint: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_base(checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


def test_several_threads_read_at_once(checkpoint: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(load_base(checkpoint).fingerprint)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [load_base(checkpoint).fingerprint] * 4
