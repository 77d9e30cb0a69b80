"""Starts of LoRA's factors and their rates, end to end on a tiny detector."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from visionlora.adapters.factors import STARTS
from visionlora.adapters.torch import load_adapter
from visionlora.errors import UsageError
from visionlora.exporting import merge
from visionlora.progress import progress_to
from visionlora.training import train

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "lr0": 0.005, "epochs": 2, "quiet": True}
GRADIENT = {**QUICK, "start": "gradient", "lora_plus": 4.0, "recipe": "far"}


@pytest.fixture(scope="module")
def run(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that begins with the gradient's directions, norms live and small layers whole."""
    return train(checkpoint, surface, tmp_path_factory.mktemp("gradient") / "run", **GRADIENT).path.parent


def test_an_interrupted_run_goes_on_to_the_same_bytes(run, checkpoint, surface, tmp_path) -> None:
    def interrupt(event) -> None:
        if event.stage == "train" and event.done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), progress_to(interrupt):
        train(checkpoint, surface, out, **GRADIENT)
    with pytest.raises(UsageError, match=r"--start: was gradient, now default; --lora-plus: was 4\.0, now 1\.0"):
        train(checkpoint, surface, out, resume=True, **{**GRADIENT, "start": "default", "lora_plus": 1.0})
    with pytest.raises(UsageError, match="--start: was gradient, now principal"):
        train(checkpoint, surface, out, resume=True, **{**GRADIENT, "start": "principal"})
    name = "adapter.safetensors"
    assert train(checkpoint, surface, out, resume=True, **GRADIENT).path.read_bytes() == (run / name).read_bytes()


def test_the_record_names_what_was_chosen_and_left_factors_learn_faster(run) -> None:
    record = json.loads((run / "training.json").read_text())
    assert (record["lora_start"], record["lora_plus"]) == ("gradient", 4.0)
    with (run / "results.csv").open(newline="") as file:
        rates = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for row in rates:  # in warm-up and after it
        assert row["lr/pg3"] == pytest.approx(4 * row["lr/pg0"], rel=1e-4) and row["lr/pg0"] > 0


def test_the_file_is_an_ordinary_adapter_of_the_untouched_base(run, checkpoint, tmp_path) -> None:
    before = checkpoint.read_bytes()
    merged = merge(checkpoint, run / "adapter.safetensors", tmp_path / "merged.pt")
    assert merged.box_error < 0.01 and merged.score_error < 1e-5
    assert checkpoint.read_bytes() == before


def test_a_training_begins_as_the_base_and_sees_the_same_pictures(checkpoint, surface, tmp_path) -> None:
    """With a learning rate of next to nothing the first epoch's losses are those of the base."""
    options = {**QUICK, "epochs": 1, "lr0": 1e-12, "hyperparameters": {"warmup_epochs": 0}}
    losses, rights = {}, {}
    for start in STARTS:
        path = train(checkpoint, surface, tmp_path / start, start=start, **options).path
        with (path.parent / "results.csv").open(newline="") as file:
            losses[start] = [float(value) for key, value in next(csv.DictReader(file)).items() if "loss" in key]
        tensors = load_adapter(path).tensors
        rights[start] = {name: tensor for name, tensor in tensors.items() if name.endswith("lora_A.weight")}
    for start in STARTS[1:]:
        assert losses[start] == pytest.approx(losses["default"], rel=1e-4)
        assert rights[start] and not any(
            torch.equal(each, rights["default"][name]) for name, each in rights[start].items()
        )


def test_starts_that_cannot_be_are_refused(run, checkpoint, surface, tmp_path) -> None:
    for options, message in (
        ({"method": "ia3", "rank": None, "start": "gradient"}, "--start: only with --method lora or dora, not ia3"),
        ({"method": "loha", "lora_plus": 2.0}, "--lora-plus: only with --method lora or dora, not loha"),
        ({"start": "pissa"}, "--start: expected one of default, principal, gradient"),
        (
            {"start": "gradient", "adapter": run / "adapter.safetensors", "quantize": "int8"},
            "--start gradient: the factors begin with those of --adapter; drop one of them",
        ),
        ({"start": "principal", "budget": "100%"}, "no layer is adapted by factors; drop them, or lower --budget"),
    ):
        with pytest.raises(UsageError, match=message):
            train(checkpoint, surface, tmp_path / "run", **{**QUICK, **options})
        assert not list(tmp_path.iterdir())
