"""The arithmetic of a benchmark on scripted times: turns, medians, ratios and noise, on any machine the same."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.tiny_onnx import write_detector
from visionlora.benchmarking import Benchmark, Spread, bench, benchmark, contestant, worker
from visionlora.benchmarking.benchmark import CALLS
from visionlora.benchmarking.contestant import Contestant, Turns
from visionlora.errors import ModelError
from visionlora.models import ModelSpec

PARTS = (0.1, 0.2, 0.6, 0.1)
"""Shares of a frame: reading, letterbox, network, decoding."""


class Stage:
    """What contestants of scripted times do: a list of milliseconds, one a turn, by label or label and threads."""

    def __init__(self, script: dict[object, Sequence[float]], load: Sequence[float] = (0.0,)) -> None:
        self.script, self.load = script, load
        self.played: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int]] = []

    def enter(self, spec: ModelSpec, threads: int, images: object, *, image_size: object, confidence: float) -> object:
        """Stand in for `Contestant(...)`."""
        turns, who = Turns(), (spec.label, threads)
        times = iter(self.script.get(who, self.script.get(spec.label, ())))

        def take_turn(*, calls: int, warm_up: int) -> None:
            assert warm_up > 0  # caches and threads are cold
            self.played.append(who)
            seconds = next(times) / 1000
            turns.network.append([seconds] * (calls - 1) + [100 * seconds])  # one call that something held up
            turns.frames.append([[10 * seconds * share for share in PARTS]] * calls)
            turns.other_load.append(self.load[(len(self.played) - 1) % len(self.load)])

        return SimpleNamespace(
            spec=spec,
            threads=threads,
            turns=turns,
            image_size=64,
            batch=1,
            precision=None,
            take_turn=take_turn,
            memory=lambda: (200, 100),
            close=lambda: self.closed.append(who),
        )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "tiny.onnx")


def play(stage: Stage, tiny: Path, monkeypatch: pytest.MonkeyPatch, *, rounds: int, threads: list[int]) -> Benchmark:
    monkeypatch.setattr(benchmark, "Contestant", stage.enter)
    return bench([f"a={tiny}", f"b={tiny}"], threads=threads, rounds=rounds)


def test_every_other_round_goes_backwards_and_every_contestant_is_dismissed(tiny, monkeypatch) -> None:
    stage = Stage({"a": [10] * 3, "b": [10] * 3})
    play(stage, tiny, monkeypatch, rounds=3, threads=[1, 2])
    there = [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert stage.played == [*there, *reversed(there), *there] and sorted(stage.closed) == sorted(there)


def test_a_slow_spell_that_hits_both_cancels(tiny, monkeypatch) -> None:
    rows = play(Stage({"a": [10, 70, 10], "b": [5, 35, 5]}), tiny, monkeypatch, rounds=3, threads=[1]).rows
    assert (rows[0].faster, rows[1].faster, rows[1].faster_range, rows[1].frame_faster) == (1, 2, (2, 2), 2)


def test_faster_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians(tiny, monkeypatch) -> None:
    rows = play(Stage({"a": [10, 40, 12], "b": [10, 10, 6]}), tiny, monkeypatch, rounds=3, threads=[1]).rows
    assert rows[1].faster == 2 != 12 / 10
    assert rows[1].faster_range == pytest.approx(np.quantile([1, 4, 2], [0.05, 0.95]))


def test_ratios_are_to_the_first_with_as_many_threads(tiny, monkeypatch) -> None:
    script = {("a", 1): [12], ("b", 1): [4], ("a", 2): [10], ("b", 2): [5]}
    rows = play(Stage(script), tiny, monkeypatch, rounds=1, threads=[1, 2]).rows
    found = [(row.label, row.threads, row.faster) for row in rows]
    assert found == [("a", 1, 1), ("b", 1, 3), ("a", 2, 1), ("b", 2, 2)]


def test_a_turn_counts_by_its_median_and_a_frame_by_the_sum_of_its_parts(tiny, monkeypatch) -> None:
    result = play(Stage({"a": [10, 30, 20], "b": [1] * 3}), tiny, monkeypatch, rounds=3, threads=[1])
    row = result.rows[0]
    assert row.turns_ms == (10, 30, 20) and row.frame_turns_ms == (100, 300, 200)
    assert row.network.median == 20 and row.network.high95 > 100  # the calls that were held up
    assert row.frame.median == 200
    assert list(row.parts.values()) == pytest.approx([200 * share for share in PARTS])
    assert (row.peak_bytes, row.before_bytes, result.calls) == (200, 100, 3 * CALLS)


@pytest.mark.parametrize(
    ("times", "load", "told"),
    [
        ([10] * 10, [0.0], ()),
        ([10] * 10, [0.0] * 8 + [0.5], ()),
        ([10] * 10, [0.0] * 4 + [0.5], ("other processes used more than 0.1 cores in 20% of the turns",)),
        ([10, 13] * 5, [0.0], ("a with 1 thread: half of its calls lie 23% apart",)),
    ],
    ids=["quiet", "a turn in ten", "busy", "apart"],
)
def test_noise_is_told_where_there_is_some(times, load, told, tiny, monkeypatch) -> None:
    noise = play(Stage({"a": times, "b": [1] * 10}, load), tiny, monkeypatch, rounds=10, threads=[1]).noise
    assert len(noise) == len(told) and all(map(str.startswith, noise, told))


def test_a_spread_is_of_quantiles() -> None:
    assert Spread.of(np.arange(101) / 1000) == Spread(median=50, low5=5, low25=25, high75=75, high95=95)


def clock(*steps: float) -> Iterator[float]:
    """Yield the time after each step, in seconds."""
    now = 0.0
    for step in steps:
        now += step
        yield now


def test_a_stage_times_calls_and_parts_of_frames_and_leaves_out_the_warm_up(tiny, tmp_path, monkeypatch) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    model = {"runtime": "onnxruntime", "path": str(tiny), "adapter": None, "image_size": None}
    stage = worker.Stage(model=model, threads=1, images=[str(picture)], confidence=0.25)
    calls = [0, 100, 0, 7, 0, 8]  # each from when it starts to when it ends; the first is warm-up
    frames = [0, 99, 99, 99, 99, 0, 1, 2, 3, 4, 0, 5, 6, 7, 8]
    ticks, used = clock(*calls, *frames), clock(10, 2.5)
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=ticks.__next__, process_time=used.__next__))

    assert stage.turn(calls=2, warm_up=1) == {"network": [7, 8], "frames": [[1, 2, 3, 4], [5, 6, 7, 8]], "cpu": 2.5}


def test_other_load_is_what_the_machine_did_beside_the_process(tiny, tmp_path, monkeypatch) -> None:
    answers = {"turn": {"network": [0.1], "frames": [[0.1] * 4], "cpu": 3.0}}
    one = Contestant.__new__(Contestant)
    one.spec = ModelSpec("tiny", tiny)
    one.turns, one._handle = Turns(), SimpleNamespace(resume=lambda: None, suspend=lambda: None)
    monkeypatch.setattr(one, "_ask", lambda order: answers[next(iter(order))], raising=False)
    monkeypatch.setattr(contestant, "busy_seconds", clock(100, 5).__next__)  # 5 s of processors, 3 of them its own
    monkeypatch.setattr(contestant, "time", SimpleNamespace(perf_counter=clock(0, 4).__next__))  # in 4 s

    one.take_turn(calls=1, warm_up=0)

    assert one.turns.other_load == [0.5] and one.turns.network == [[0.1]]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no JSON",
        "[1]",
        "{}",
        '{"network": [0.1, 0.1], "frames": [[0, 0, 0, 0]], "cpu": 1}',
        '{"network": [-0.1], "frames": [[0, 0, 0, 0]], "cpu": 1}',
        '{"network": [0.1], "frames": [["a", 0, 0, 0]], "cpu": 1}',
        '{"network": [0.1], "frames": [[0, 0, 0]], "cpu": 1}',
        '{"network": [0.1], "frames": [[0, 0, 0, 0]], "cpu": null}',
        '{"network": [NaN], "frames": [[0, 0, 0, 0]], "cpu": 1}',
        '{"error": "annotations", "message": "odd"}',
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_answer_that_is_none_names_the_model(line, tiny, monkeypatch) -> None:
    one = Contestant.__new__(Contestant)
    one.spec, one.turns = ModelSpec("tiny", tiny), Turns()
    one._handle = SimpleNamespace(resume=lambda: None, suspend=lambda: None)
    one._process = SimpleNamespace(stdin=io.StringIO(), stdout=io.StringIO(f"{line}\n" if line else ""), wait=lambda: 1)
    one._messages = io.BytesIO(b"last \x1b[31mwords")

    with pytest.raises(ModelError, match=r"tiny\.onnx: the process|odd"):
        one.take_turn(calls=1, warm_up=0)
    assert not one.turns.network


def test_time_of_a_file_that_takes_four_pictures_is_for_one(tmp_path, monkeypatch) -> None:
    model = {"runtime": "onnxruntime", "path": str(write_detector(tmp_path / "four.onnx", batch=4)), "adapter": None}
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    stage = worker.Stage(model={**model, "image_size": None}, threads=1, images=[str(picture)], confidence=0.25)
    ticks = clock(0, 8, *[0, 1, 1, 8, 1])  # a call, then the parts of a frame
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=ticks.__next__, process_time=lambda: 0.0))

    assert stage.batch == 4 and stage.picture.shape[0] == 4
    assert stage.turn(calls=1, warm_up=0) == {"network": [2], "frames": [[1, 1, 2, 1]], "cpu": 0.0}
