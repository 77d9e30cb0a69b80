"""`--batch auto`: which batch is chosen by what was measured, and where the choice is said and kept."""

from __future__ import annotations

import json

import pytest
import torch

from visionlora import cli
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import UsageError
from visionlora.training import batching, plan, planning, settings, train
from visionlora.training.batching import CEILING, batches_up_to, largest_batch

GIB = 2**30
QUICK = {"epochs": 1, "imgsz": 96, "rank": 2, "device": "cpu", "quiet": True, "batch": "auto"}


class Gpu:
    """Memory as a function of the batch; notes what was measured."""

    def __init__(self, bytes_of, *, fits: int = 10**9, crash: bool = True) -> None:
        self.bytes_of, self.fits, self.crash, self.tried = bytes_of, fits, crash, []

    def __call__(self, batch: int) -> int | None:
        self.tried.append(batch)
        return None if batch > self.fits and self.crash else int(self.bytes_of(batch))


SHAPES = {
    "line": lambda batch: 300 + 100 * batch,
    "no slope": lambda batch: 300,
    "steeper where it is large": lambda batch: max(300 + 50 * batch, 180 * batch - 1000),
    "flatter where it is large": lambda batch: int(2000 * batch**0.5),
    "in steps": lambda batch: 1000 * -(-(300 + 100 * batch) // 1000),
    "square": lambda batch: 300 + 3 * batch**2,
}


@pytest.mark.parametrize("room", [0, 350, 400, 1000, 2300, 4_321, 6700, 10**6])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crash", [True, False], ids=["out of memory", "measured above the room"])
def test_the_chosen_batch_fits_and_the_next_larger_one_does_not(shape, room, crash) -> None:
    batches, bytes_of = batches_up_to(CEILING), SHAPES[shape]
    fitting = [batch for batch in batches if bytes_of(batch) <= room]
    gpu = Gpu(bytes_of, fits=max(fitting, default=0), crash=crash)
    found = largest_batch(gpu, batches, room)
    assert (found and found.batch) == max(fitting, default=None)
    assert found is None or found.memory == bytes_of(found.batch)
    assert len(set(gpu.tried)) == len(gpu.tried) <= 7


def test_a_line_needs_two_small_batches_and_one_or_two_more() -> None:
    for room, tried in ((2900, [4, 8, 24, 32]), (10**6, [4, 8, 64]), (1199, [4, 8, 16])):
        gpu = Gpu(SHAPES["line"])
        largest_batch(gpu, batches_up_to(64), room)
        assert gpu.tried == tried


def test_where_only_one_picture_fits_it_is_found_from_above() -> None:
    gpu = Gpu(SHAPES["line"], fits=1)
    assert largest_batch(gpu, batches_up_to(64), 10**6).batch == 1 and gpu.tried == [4, 2, 1]


@pytest.mark.parametrize(
    ("most", "batches"),
    [(0, ()), (1, (1,)), (3, (1, 2)), (12, (1, 2, 4, 8)), (25, (1, 2, 4, 8, 16, 24))],
)
def test_batches_are_few_and_none_is_larger_than_allowed(most, batches) -> None:
    assert batches_up_to(most) == batches
    found = largest_batch(Gpu(SHAPES["line"]), batches, 10**6)
    assert (found.batch if found else 0) == max(batches, default=0)


@pytest.fixture
def gpu(monkeypatch) -> list[dict]:
    """Let the CPU pass for a GPU of 24 GiB, on which a picture takes 1 GiB and everything else 2; return the calls."""
    calls: list[dict] = []

    def measure(base, step, sample, *, last, validated, limit) -> int | None:
        calls.append({"step": step, "batch": sample.batch, "last": last, "validated": validated, "limit": limit})
        size = GIB * (2 + sample.batch) * (0.5 if step.lean else 1)
        return int(size) if size <= limit else None

    for module in (settings, planning):
        monkeypatch.setattr(module, "check_gpu", lambda device: None)
    monkeypatch.setattr(batching, "free_memory", lambda place: 24 * GIB)
    monkeypatch.setattr(ULTRALYTICS, "training_memory", measure)
    return calls


def test_a_run_trains_with_the_batch_that_fits_and_goes_on_with_it(
    gpu, checkpoint, surface, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(batching, "free_memory", lambda place: 8 * GIB)
    trained = train(checkpoint, surface, tmp_path / "run", **{**QUICK, "quiet": False})
    said = "batch 4: the largest of 1 to 8 that fits into 85% of 8.0 GiB, with 6.0 GiB; 3 steps an epoch"
    assert f"{said}; --lr0 0.001 was measured at batch 16, 0.00025 would be in proportion" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "training.json").read_text())["hyperparameters"]
    assert record["batch"] == record["nbs"] == 4
    settings_of_step = gpu[0]["step"].adapter
    assert (settings_of_step.method.rank, gpu[0]["step"].lean) == (2, False)
    assert [(call["batch"], call["last"], call["validated"]) for call in gpu] == [(4, 0, 6), (8, 4, 6)]
    del gpu[:]
    longer = train(checkpoint, surface, tmp_path / "run", **{**QUICK, "epochs": 2, "resume": True})
    assert not gpu and longer.path == trained.path
    train(checkpoint, surface, tmp_path / "run", **{**QUICK, "epochs": 2, "resume": True, "batch": 4})
    with pytest.raises(UsageError, match="--batch: was 4, now 8"):
        train(checkpoint, surface, tmp_path / "run", **{**QUICK, "epochs": 2, "resume": True, "batch": 8})


def test_several_gpus_share_the_batch(gpu, checkpoint, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    jobs = []
    monkeypatch.setattr(ULTRALYTICS, "train", lambda job: jobs.append(job) or (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        train(checkpoint, surface, tmp_path / "run", **{**QUICK, "device": "0,1"})
    assert jobs[0].hyperparameters["batch"] == 8
    assert [(call["batch"], call["last"], call["validated"]) for call in gpu] == [(2, 0, 4), (4, 2, 6)]


def test_nothing_that_fits_is_an_error_that_says_what_to_do(gpu, checkpoint, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batching, "free_memory", lambda place: GIB)
    with pytest.raises(
        UsageError, match=r"85% of 1\.0 GiB, but not even 1 does; train with --lean or a smaller --imgsz"
    ):
        train(checkpoint, surface, tmp_path / "run", **QUICK)
    assert not (tmp_path / "run" / "training.json").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"--batch auto: measures the memory of a CUDA GPU, and --device is cpu here; give --batch a number"),
        ({"batch": "many"}, "--batch: expected a whole number or auto, got 'many'"),
        ({"quantize": "int8"}, "--batch auto: .* the phases of --quantize and --activation take more"),
        ({"activation": "relu"}, "--batch auto: .* the phases of --quantize and --activation take more"),
        ({"hyperparameters": {"amp": False, "multi_scale": 0.5}}, "--batch auto: .* without --set amp, multi_scale;"),
    ],
    ids=["CPU", "word", "int8", "relu", "hyperparameters"],
)
def test_where_nothing_can_be_measured_auto_is_refused(
    checkpoint, surface, tmp_path, monkeypatch, asked, message
) -> None:
    if asked:
        monkeypatch.setattr(settings, "check_gpu", lambda device: None)
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path / "run", **{**QUICK, **asked})
    assert not (tmp_path / "run").exists()


def test_a_plan_tells_the_largest_batch_of_each_way(gpu, checkpoint, surface, monkeypatch) -> None:
    monkeypatch.setattr(planning, "_ROUNDS", 1)
    ways = planning._ways
    monkeypatch.setattr(planning, "_ways", lambda *args: tuple(way for way in ways(*args) if way.step.lean))
    monkeypatch.setattr(planning, "recommend", lambda rows: (rows[0], ""))
    monkeypatch.setattr(batching, "free_memory", lambda place: 12 * GIB)
    planned = plan(checkpoint, surface, imgsz=96, batch="auto", memory=4, device="cpu")
    assert [row.largest for row in planned.rows] == [4] and ", batch 4" in planned.device
    assert "the largest of 1 to 8 that fits into 85% of 4.0 GiB" in str(planned) and "| 4 |" in str(planned)
    assert "--batch auto" in planned.command and cli._parser().parse_args(planned.command.split()[1:]).batch == "auto"
    with pytest.raises(UsageError, match=r"--memory 13: 12\.0 GiB are free on --device cpu; ask for less"):
        plan(checkpoint, surface, imgsz=96, batch="auto", memory=13, device="cpu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"batch": 4, "memory": 24}, "--memory: only with --batch auto"),
        ({"memory": 0}, "--memory: expected GiB above 0, such as 24, got 0"),
        ({"memory": float("nan")}, "--memory: expected GiB above 0"),
        ({}, "--batch auto: measures the memory of a CUDA GPU"),
    ],
    ids=["a number too", "0", "nan", "CPU"],
)
def test_a_plan_refuses_memory_that_it_cannot_look_into(checkpoint, surface, asked, message) -> None:
    with pytest.raises(UsageError, match=message):
        plan(checkpoint, surface, **{"imgsz": 96, "batch": "auto", "device": "cpu", **asked})
