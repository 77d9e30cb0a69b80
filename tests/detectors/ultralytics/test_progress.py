"""What is seen of a training: its epochs are lines or events, and Ultralytics speaks only where it is asked to."""

from __future__ import annotations

import contextlib
import io
import pickle

import pytest

import visionlora as vl
from visionlora.detectors.job import TrainingJob
from visionlora.progress import level

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "hyperparameters": {"close_mosaic": 1}}


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_function_gets_epochs_and_batches_and_can_stop_the_run(checkpoint, surface, tmp_path, capfd) -> None:
    events: list[vl.Progress] = []

    def stop(event: vl.Progress) -> None:
        events.append(event)
        if event.message.startswith("epoch 1/2  "):
            raise KeyboardInterrupt

    with vl.progress_to(stop), pytest.raises(KeyboardInterrupt):
        vl.train(checkpoint, surface, tmp_path / "run", epochs=2, **QUICK)
    with vl.progress_to(events.append):
        vl.train(checkpoint, surface, tmp_path / "run", epochs=2, resume=True, **QUICK)

    lines = [event for event in events if event.stage == "train" and event.done]
    assert [(one.done, one.of, one.unit) for one in lines] == [(1, 2, ""), (2, 2, "")]
    assert all(one.message.startswith(f"epoch {one.done}/2  loss ") for one in lines)
    batches = [event for event in events if event.stage == "epoch"]
    assert [one.done for one in batches] == [0, 1, 2, 3] * 2 and {one.of for one in batches} == {3}
    assert [one.message for one in batches[1:4]] == ["epoch 1/2"] * 3 and batches[-1].message == "epoch 2/2"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ["quiet", "lines", "verbose"])
def test_the_terminal_shows_as_much_as_it_is_told_to(name, checkpoint, surface, tmp_path, capsys) -> None:
    said = {} if name == "lines" else {name: True}

    with contextlib.redirect_stderr(_Screen()) as screen:
        vl.train(checkpoint, surface, tmp_path / "run", epochs=1, **QUICK, **said)

    out = capsys.readouterr().out
    assert ("adapter: " in out) == ("epoch 1/1  loss " in out) == (name != "quiet")
    assert ("epoch 1/1: " in screen.getvalue()) == (name == "lines")
    assert screen.getvalue().split("\r")[-1].strip() == ""


def test_a_job_takes_the_level_to_other_processes() -> None:
    with level("quiet"):
        job = TrainingJob(*[None] * 12)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(job)).console == "quiet"
