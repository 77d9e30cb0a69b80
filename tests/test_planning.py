"""The plan: measured costs, and a recommendation that follows from them."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from visionlora import cli
from visionlora.adapters import AdapterSettings, attach
from visionlora.data import load_dataset
from visionlora.errors import UsageError
from visionlora.lowrank.methods import LoRA
from visionlora.planning import TrainingPlan, plan, recommend
from visionlora.yolo import load_base, plan_detector, set_classes
from visionlora.yolo.measuring import StepCost, measure_step


@pytest.fixture(scope="module")
def planned(checkpoint, surface, tmp_path_factory) -> TrainingPlan:
    folder = tmp_path_factory.mktemp("a name with spaces") / "data"
    shutil.copytree(surface.parent, folder)
    return plan(checkpoint, folder / surface.name, imgsz=96, batch=2, device="cpu")


def test_every_way_is_measured(planned) -> None:
    assert len({row.label for row in planned.rows}) == len(planned.rows) == 10
    assert all(row.fits and row.milliseconds > 0 and row.memory > 0 for row in planned.rows)
    assert planned.steps == 6  # 12 pictures, 2 a step


def test_full_fine_tuning_trains_nearly_everything_and_adapters_a_part(planned) -> None:
    rows = {row.label: row for row in planned.rows}
    assert rows["full fine-tuning"].share > 0.95
    ranks = [rows[f"LoRA, rank {rank}, all"].trainable for rank in (4, 8, 16, 32)]
    assert ranks == sorted(ranks) and ranks[1] < 0.3 * rows["full fine-tuning"].trainable


def test_trainable_parameters_are_those_of_the_adapter_that_would_be_trained(planned, checkpoint, surface) -> None:
    model = load_base(checkpoint).model
    whole = set_classes(model, load_dataset(surface, splits=("train",)).names)
    attach(model, plan_detector(model, AdapterSettings(LoRA(rank=8)), whole=whole))
    row = next(row for row in planned.rows if row.options == "--rank 8")
    assert row.trainable == sum(parameter.numel() for parameter in model.parameters())


def test_lean_and_later_adapters_keep_less(planned) -> None:
    by_options = {row.options: row.memory for row in planned.rows if row.options}
    assert by_options["--rank 8 --lean"] < 0.7 * by_options["--rank 8"]
    assert by_options["--rank 8 --targets neck+head"] < by_options["--rank 8 --targets from:5"] < by_options["--rank 8"]


def test_recommended_command_is_one_that_the_command_line_takes(planned) -> None:
    options = cli._parser().parse_args(shlex.split(planned.command)[1:])
    assert options.verb == "train" and options.rank == 8 and not options.lean
    assert options.device == "cpu" and Path(options.data).is_file()
    assert planned.command in str(planned) and "(recommended)" in str(planned)


@pytest.mark.parametrize(
    ("too_large", "expected"),
    [
        ((), "--rank 8"),
        (("--rank 8",), "--rank 8 --lean"),
        (("--rank 8", "--rank 8 --lean"), "--rank 8 --targets from:5"),
    ],
    ids=["all fit", "usual does not fit", "lean does not fit"],
)
def test_recommendation_is_the_first_that_fits(planned, too_large, expected) -> None:
    rows = tuple(
        dataclasses.replace(row, milliseconds=None, memory=None, fits=False) if row.options in too_large else row
        for row in planned.rows
    )
    assert recommend(rows)[0].options == expected


def test_nothing_that_fits_is_said(planned) -> None:
    rows = tuple(dataclasses.replace(row, milliseconds=None, memory=None, fits=False) for row in planned.rows)
    assert "smaller --batch" in recommend(rows)[1]
    assert "does not fit" in str(dataclasses.replace(planned, rows=rows))


def test_a_step_that_does_not_fit_the_memory_of_a_cpu_is_no_error() -> None:
    def build():
        return torch.empty(10**15, dtype=torch.uint8)

    assert measure_step(build, {}, torch.device("cpu")) == StepCost(0, None, None)


def test_plan_is_readable_by_programs(planned) -> None:
    read = json.loads(planned.to_json())
    assert read["rows"][0]["label"] == "full fine-tuning" and read["steps"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "at least 1 image"),
        ({"batch": 10**10}, "pictures of 96 px do not fit into memory; try a smaller batch"),
        ({"imgsz": 100}, "multiple of 32"),
        ({"device": "7"}, "--device 7"),
    ],
    ids=["batch", "huge batch", "image size", "device"],
)
def test_wrong_settings_are_refused(checkpoint, surface, settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        plan(checkpoint, surface, **{"imgsz": 96, "batch": 2, "device": "cpu", **settings})
