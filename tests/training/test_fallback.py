"""A training that runs away goes back and on at half the learning rate, or ends with a word if that does not help."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import ModelEMA

from visionlora.adapters import read_adapter_card
from visionlora.adapters.torch import load_adapter
from visionlora.adapters.torch.norms import LiveNorm
from visionlora.detectors.ultralytics import step
from visionlora.detectors.ultralytics.fallback import FallBack, is_finite, not_running_away
from visionlora.detectors.ultralytics.loss import head_weights
from visionlora.detectors.ultralytics.step import TrainingStep
from visionlora.errors import VisionLoraError
from visionlora.training import train

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "recipe": "near"}
STEPS = 3  # of an epoch


@pytest.fixture(scope="module")
def two_heads(script, tmp_path_factory) -> Path:
    """Return the checkpoint of an untrained end-to-end detector of the toy base's shape."""
    torch.manual_seed(0)
    model = DetectionModel({**script("shapes/pretrain.py").model_description(3), "end2end": True}, verbose=False)
    model.names = {0: "one", 1: "two", 2: "three"}
    path = tmp_path_factory.mktemp("two") / "two.pt"
    torch.save({"model": model, "train_args": {}}, path)
    return path


@pytest.fixture
def losing(monkeypatch) -> Callable[[set[int]], list[tuple[str, ...]]]:
    """Return how to lose the loss of some steps, from 1; it returns what will list the pictures of all steps."""

    def lose(steps: set[int]) -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []
        forward = step.TrainingStep.forward

        def noted(self, batch):
            seen.append(tuple(batch["im_file"]))
            return forward(self, batch)

        def lost(loss, *scores):
            return loss * torch.nan if len(seen) in steps else not_running_away(loss, *scores)

        monkeypatch.setattr(step.TrainingStep, "forward", noted)
        monkeypatch.setattr(step, "not_running_away", lost)
        return seen

    return lose


def noted(forward: Callable, weights: list[tuple[float, ...]]) -> Callable:
    """Return a step's `forward` that notes how much each head counts."""

    def note(self, batch):
        criterion = getattr(self.module, "criterion", None)  # made by the first step
        weights.append(head_weights(criterion or self.module.init_criterion()))
        return forward(self, batch)

    return note


def rates(folder: Path, group: str = "lr/pg0") -> list[float]:
    """Return the learning rates of a group of parameters that results.csv names, one an epoch."""
    return [float(row[group]) for row in csv.DictReader((folder / "results.csv").read_text().splitlines())]


@pytest.mark.parametrize("recipe", ["near", "far"])
def test_an_epoch_without_numbers_begins_again_at_half_the_rate(
    checkpoint, surface, tmp_path, losing, capsys, recipe
) -> None:
    settings = {**QUICK, "recipe": recipe, "epochs": 3}
    usual = train(checkpoint, surface, tmp_path / "usual", **settings).path
    seen = losing({STEPS + 2, STEPS + 3})
    path = train(checkpoint, surface, tmp_path / "run", **settings).path
    first, second, third = rates(tmp_path / "usual")
    assert rates(tmp_path / "run") == pytest.approx([first, second / 2, third / 2], rel=1e-4)
    assert seen[STEPS : 2 * STEPS] == seen[2 * STEPS : 3 * STEPS] and len(seen) == 4 * STEPS
    assert all(tensor.isfinite().all() for tensor in load_adapter(path).tensors.values())
    assert [read_adapter_card(each).training["lr0_halved"] for each in (usual, path)] == [0, 1]
    lr0 = {"near": "0.0005", "far": "0.001"}[recipe]
    said = capsys.readouterr()
    assert "epoch 2: the loss is not finite; it begins again" in said.err + said.out
    assert f"(--lr0 {lr0})" in said.err + said.out


def test_both_heads_weigh_as_in_that_epoch_of_an_undisturbed_run(two_heads, surface, tmp_path, monkeypatch) -> None:
    weights: list[tuple[float, ...]] = []
    monkeypatch.setattr(TrainingStep, "forward", noted(TrainingStep.forward, weights))
    train(two_heads, surface, tmp_path / "usual", epochs=3, quiet=True, **QUICK)
    usual = [*weights]
    weights.clear()
    monkeypatch.setattr(step, "not_running_away", lambda loss, *_: loss * torch.nan if len(weights) == 4 else loss)
    train(two_heads, surface, tmp_path / "run", epochs=3, quiet=True, **QUICK)
    assert len({*usual}) == 3 and weights == [*usual[: 2 * STEPS], *usual[STEPS:]]


@pytest.mark.slow
def test_an_epoch_of_one_of_two_heads_in_int8_begins_again(two_heads, surface, tmp_path, losing, capsys) -> None:
    settings = {**QUICK, "quantize": "int8", "images": 2}
    seen = losing({STEPS + 2, 3 * STEPS + 1})
    for epochs in (1, 2):  # and the first one of a resumed run
        train(two_heads, surface, tmp_path / "run", epochs=1, qat_epochs=epochs, resume=epochs == 2, **settings)
    assert len(seen) == 5 * STEPS
    said = capsys.readouterr()
    assert "(--qat-lr0 0.0001)" in said.err + said.out


def test_a_run_lost_at_once_begins_again_as_it_began(checkpoint, surface, tmp_path, losing) -> None:
    losing({STEPS})
    train(checkpoint, surface, tmp_path / "run", epochs=2, quiet=True, **QUICK)
    assert len(rates(tmp_path / "run")) == 2


def test_a_resumed_run_keeps_its_halved_rate(checkpoint, surface, tmp_path, losing) -> None:
    train(checkpoint, surface, tmp_path / "usual", epochs=3, quiet=True, **QUICK)
    losing({STEPS})
    for epochs in (2, 3):
        path = train(checkpoint, surface, tmp_path / "run", epochs=epochs, resume=epochs == 3, quiet=True, **QUICK).path
    assert rates(tmp_path / "run")[2] == pytest.approx(rates(tmp_path / "usual")[2] / 2, rel=1e-4)
    assert read_adapter_card(path).training["lr0_halved"] == 1


def test_biases_that_warm_up_at_a_rate_of_their_own_have_half_of_it_too(checkpoint, surface, tmp_path, losing) -> None:
    settings = {**QUICK, "quiet": True, "hyperparameters": {"warmup_epochs": 4, "warmup_bias_lr": 0.01}}
    train(checkpoint, surface, tmp_path / "usual", epochs=4, **settings)
    losing({STEPS})
    for epochs in (2, 4):
        train(checkpoint, surface, tmp_path / "run", epochs=epochs, resume=epochs == 4, **settings)
    usual, halved = (rates(tmp_path / name, "lr/pg2")[2] for name in ("usual", "run"))
    assert halved == pytest.approx(usual / 2, rel=1e-4)


def test_a_run_that_cannot_be_saved_ends_with_a_word_and_keeps_its_adapter(
    checkpoint, surface, tmp_path, losing
) -> None:
    losing(set(range(STEPS + 1, 100)))
    with pytest.raises(VisionLoraError, match=r"not finite in epoch 2, though .* halved 3 times; train with a lower"):
        train(checkpoint, surface, tmp_path / "run", epochs=3, quiet=True, **QUICK)
    assert read_adapter_card(tmp_path / "run" / "adapter.safetensors").training["epoch"] == 1


def test_a_lost_epoch_cannot_be_the_best_one(checkpoint, surface, tmp_path, losing) -> None:
    """Two batches a step: the third one's loss is lost, and yet the average of that epoch has numbers, and a score."""
    losing({STEPS})
    settings = {**QUICK, "lr0": 0.01, "hyperparameters": {"nbs": 8, "warmup_epochs": 0}}
    path = train(checkpoint, surface, tmp_path / "run", epochs=1, quiet=True, **settings).path
    assert read_adapter_card(path).training["lr0_halved"] == 1


def test_a_lost_epoch_does_not_change_how_the_loss_is_scaled() -> None:
    model = nn.Linear(2, 1)
    average, scaler, fallback = ModelEMA(model), GradScaler("cpu"), FallBack()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    fallback.keep(average, scaler, None)
    before = scaler.get_scale()
    for _ in range(200):
        scaler.scale(model(torch.ones(2)).sum() * torch.nan).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 0  # no gradient comes through any more
    fallback.go_back(model, average, optimizer, scheduler, scaler)
    assert scaler.get_scale() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_beyond_half_precision_are_no_numbers_in_any(dtype) -> None:
    loss = torch.ones(3)
    for value, finite in ((60_000.0, True), (-60_000.0, True), (1e5, False), (-1e5, False), (float("nan"), False)):
        got = not_running_away(loss, torch.tensor([0.0, value], dtype=dtype))
        assert bool(got.isfinite().all()) is finite, value
    assert torch.equal(not_running_away(loss, torch.zeros(2, dtype=dtype)), loss)


def test_a_statistic_that_is_no_number_is_found() -> None:
    norm = LiveNorm(nn.BatchNorm2d(2))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), norm)
    assert is_finite(model)
    norm.running_var[0] = torch.inf
    assert not is_finite(model)
