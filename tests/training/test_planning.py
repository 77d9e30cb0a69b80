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
from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import attach
from visionlora.data import load_dataset
from visionlora.detectors.family import StepCost
from visionlora.detectors.measuring import measure_in_turns, measure_step
from visionlora.detectors.ultralytics import load_base, plan_detector, set_classes
from visionlora.errors import UsageError
from visionlora.training import PlannedRun, TrainingPlan, plan, planning
from visionlora.training.planning import _noise, recommend
from visionlora.training.recipes import Look


@pytest.fixture(scope="module")
def planned(checkpoint, surface, tmp_path_factory) -> TrainingPlan:
    folder = tmp_path_factory.mktemp("a name with spaces") / "data"
    shutil.copytree(surface.parent, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_ROUNDS", 1)
        return plan(checkpoint, folder / surface.name, imgsz=96, batch=2, device="cpu")


def test_every_way_is_measured(planned) -> None:
    assert len({row.label for row in planned.rows}) == len(planned.rows) == 11
    assert all(row.fits and row.milliseconds > 0 and row.memory > 0 for row in planned.rows)
    assert planned.steps == 6  # 12 pictures, 2 a step


def test_the_pictures_are_looked_at_and_the_ways_follow(planned, checkpoint, surface, monkeypatch) -> None:
    assert "objects (median" in str(planned) and "recipe near" in planned.pictures
    monkeypatch.setattr(planning, "look_at", lambda *_: Look(0.3, 0.02))
    monkeypatch.setattr(planning, "_ROUNDS", 1)
    far = plan(checkpoint, surface, imgsz=32, batch=2, device="cpu")
    assert "far from what the base has seen (shift 0.30)" in str(far) and "recipe far" in str(far)
    more = {row.label: row.trainable for row in far.rows}
    usual = {row.label: row.trainable for row in planned.rows}
    assert more["LoRA, rank 8, all"] > usual["LoRA, rank 8, all"]
    assert more["full fine-tuning"] == usual["full fine-tuning"]


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
    assert options.verb == "train" and options.rank == 8 and "--epochs 50 " in planned.command
    assert options.device == "cpu" and Path(options.data).is_file()
    assert planned.command in str(planned) and "(recommended)" in str(planned)


def steady(row: PlannedRun, *turns: float) -> PlannedRun:
    """Return a row with these times."""
    return dataclasses.replace(row, milliseconds=sorted(turns)[len(turns) // 2], turns_ms=turns)


def with_times(plan: TrainingPlan, **turns: tuple[float, ...]) -> tuple[PlannedRun, ...]:
    """Return the rows of a plan: 100 ms each, but for `usual` (rank 8), `lean` and `full`."""
    names = {"--rank 8": "usual", "--rank 8 --lean": "lean"}
    named = [(row, "full" if row is plan.rows[0] else names.get(row.options or "", "")) for row in plan.rows]
    return tuple(steady(row, *turns.get(name, (100.0,) * 5)) for row, name in named)


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
        dataclasses.replace(row, milliseconds=None, memory=None, fits=False, turns_ms=())
        if row.options in too_large
        else row
        for row in with_times(planned, lean=(120, 121, 119, 122, 120))
    )
    assert recommend(rows)[0].options == expected


@pytest.mark.parametrize(
    ("lean", "expected", "words"),
    [
        ((90.0, 130, 105, 99, 104), "--rank 8 --lean", "in less memory, and no difference of time beyond noise"),
        ((102.0, 101, 102, 102, 101), "--rank 8 --lean", "no difference of time beyond noise"),
        ((110.0, 112, 111, 109, 115), "--rank 8", "rank 8 in all layers, whose accuracy was measured. Against full"),
        ((90.0, 92, 91, 89, 93), "--rank 8 --lean", "in less time and memory"),
    ],
    ids=["noise", "steady but small", "slower", "faster"],
)
def test_within_noise_the_one_with_less_memory_is_recommended(planned, lean, expected, words) -> None:
    row, reason = recommend(with_times(planned, lean=lean))
    assert row.options == expected and words in reason


def test_times_are_compared_within_a_round_and_noise_is_marked(planned) -> None:
    spell = (100.0, 400, 100, 100, 100)  # the machine was busy in the second round
    rows = with_times(planned, full=spell, lean=spell, usual=tuple(turn / 2 for turn in spell))
    row, reason = recommend(rows)
    plan = dataclasses.replace(planned, rows=rows, reason=reason, recommended=row.label)
    (usual,) = [line for line in str(plan).splitlines() if line.startswith("| LoRA, rank 8, all (")]
    assert "| 0.50 (0.50-0.50) |" in usual and "50.0-200.0" in usual
    (other,) = [line for line in str(plan).splitlines() if line.startswith("| LoRA, rank 4, all")]
    assert "(0.25-1.00) ~ |" in other
    assert "0.50 of the time" in plan.reason


def test_a_busy_machine_is_said(planned) -> None:
    assert _noise(with_times(planned)) == ""
    assert _noise(with_times(planned, full=(100, 100, 140, 100, 100))).startswith("the turns of 1 of 11 ways differ")


def test_ways_take_turns() -> None:
    made: list[str] = []

    class Step(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            made.append(name)
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch):
            return self.weight * batch["img"].sum(), None

    builds = [lambda: Step("a"), lambda: torch.empty(10**15, dtype=torch.uint8), lambda: Step("b")]
    *_, costs = measure_in_turns(builds, {"img": torch.ones(1)}, torch.device("cpu"), rounds=3)
    assert made == ["a", "b", "b", "a", "a", "b"] and [len(cost.turns_ms) for cost in costs] == [3, 0, 3]


def test_nothing_that_fits_is_said(planned) -> None:
    nothing = {"milliseconds": None, "memory": None, "fits": False, "turns_ms": ()}
    rows = tuple(dataclasses.replace(row, **nothing) for row in planned.rows)
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
        ({"batch": 0}, "--batch: expected a whole number of at least 1, got 0"),
        ({"batch": 10**10}, "pictures of 96 px do not fit into memory; try a smaller batch"),
        ({"imgsz": 100}, "multiple of 32"),
        ({"device": "7"}, "--device 7"),
        ({"imgsz": 32, "batch": 1}, "--batch 1: expected at least 2 pictures in each step at --imgsz 32"),
    ],
    ids=["batch", "huge batch", "image size", "device", "one value a channel"],
)
def test_wrong_settings_are_refused(checkpoint, surface, settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        plan(checkpoint, surface, **{"imgsz": 96, "batch": 2, "device": "cpu", **settings})
