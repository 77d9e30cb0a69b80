"""Times are taken in turns and say how sure they are: arithmetic on given numbers, turns on a scripted clock."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from visionlora.reporting.formatting import speed_words, time_words
from visionlora.reporting.lineage import find_notes
from visionlora.scoring import time_networks, timing
from visionlora.scoring.timing import CALLS, Ratio, Turns, timing_of


def turns(*medians: float, load: float = 0.0) -> Turns:
    """Return turns of calls that all take as long, in milliseconds."""
    return Turns(np.repeat(np.array(medians)[:, None], CALLS, axis=1), np.full(len(medians), load))


def test_network_beside_itself_is_not_faster_on_a_busy_machine() -> None:
    """A slow spell of four rounds that hits both, a little later the second."""
    base = timing_of(turns(14, 14, 30, 33, 31, 29, 15, 14, 14, 14))
    same = timing_of(
        turns(14, 14, 14, 32, 30, 31, 28, 14, 14, 14), turns(14, 14, 30, 33, 31, 29, 15, 14, 14, 14), to="a"
    )

    assert base.noisy and same.noisy and not same.ratio.measurable
    assert max(base.low, same.low) <= min(base.high, same.high)  # the ranges meet


def test_network_that_is_faster_in_every_round_is_so_in_spite_of_noise() -> None:
    slow, fast = turns(20, 20, 60, 40, 20, 20), turns(10, 10, 30, 20, 10, 10)

    ratio = timing_of(fast, slow, to="slow").ratio

    assert ratio == Ratio("slow", 0.5, 0.5, 0.5) and ratio.measurable


@pytest.mark.parametrize(
    ("measured", "noisy"),
    [
        (turns(*[10] * 10), False),
        (turns(*[10] * 9, 90), False),
        (turns(*[10, 13] * 5), True),
        (turns(*[10] * 10, load=0.5), True),
    ],
    ids=["quiet", "one round", "apart", "others"],
)
def test_noise_is_marked_where_there_is_some(measured, noisy, report) -> None:
    timed = timing_of(measured)
    one = replace(report, rows=(replace(report.rows[1], timing=timed, ms_per_image=timed.median),))

    assert timed.noisy == noisy
    assert ("~" in str(one).splitlines()[-1]) == noisy
    assert len(find_notes(one, {})) == noisy


def test_times_are_for_one_picture_of_a_batch(report) -> None:
    timed = timing_of(Turns(np.full((5, 3), 2.0), np.zeros(5), batch=4))

    assert (timed.median, timed.batch) == (2.0, 4)
    assert time_words(replace(report.rows[1], timing=timed)) == "2.0 (2.0-2.0)"


def test_speed_is_said_where_it_was_measured_alone(report) -> None:
    row = replace(report.rows[2], timing=timing_of(turns(5, 5, 5), turns(10, 10, 10), to="merged"))
    near = replace(row, timing=timing_of(turns(10, 9.9, 10), turns(10, 10, 10), to="merged"))

    assert speed_words(row) == "0.50 of `merged` (0.50 to 0.50)"
    assert speed_words(near) == "no measurable difference to `merged`" and speed_words(report.rows[2]) == ""


def test_networks_take_turns_backwards_every_other_round(images, colour_network, monkeypatch) -> None:
    """The clock goes on by what each call costs, and by nothing else."""
    now, calls = [0.0], []
    stopped = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr(timing, "time", stopped)
    monkeypatch.setattr(timing, "busy_seconds", lambda: 1.25 * now[0])

    class Scripted(colour_network):
        def __init__(self, label: str, seconds: float, batch: int | None = None) -> None:
            super().__init__()
            self.label, self.seconds, self.batch = label, seconds, batch

        def __call__(self, batch: np.ndarray, /) -> tuple[np.ndarray, ...]:
            assert batch.shape == (self.batch or 1, 3, 64, 64)
            calls.append(self.label)
            now[0] += self.seconds
            return super().__call__(batch)

    one, four = time_networks([Scripted("one", 0.5), Scripted("four", 1.0, batch=4)], images, rounds=2)

    assert calls == ["one"] * 5 + ["four"] * 10 + ["one"] * 5  # two calls of a turn warm up
    assert one.milliseconds.shape == (2, CALLS) and np.allclose(one.milliseconds, 500)
    assert np.allclose(four.milliseconds, 250) and four.batch == 4
    assert np.allclose(one.other_load, 0.25)


def test_real_clock_gives_the_order_of_magnitude(images, colour_network) -> None:
    class Sleepy(colour_network):
        def __call__(self, batch: np.ndarray, /) -> tuple[np.ndarray, ...]:
            time.sleep(0.05)
            return super().__call__(batch)

    awake, sleepy = time_networks([colour_network(), Sleepy()], images, rounds=2)

    assert sleepy.median >= 50 and awake.median < sleepy.median
