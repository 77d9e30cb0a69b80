"""Progress: the same events for a terminal and for a function; bars on terminals alone, which leave nothing behind."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading

import pytest

import visionlora as vl
from visionlora.progress import about, counting, current_level, level, report, tracked


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def _last_row(screen: _Screen) -> str:
    return screen.getvalue().split("\r")[-1].strip()


def test_a_loop_reports_its_start_and_each_item_behind_it() -> None:
    events: list[vl.Progress] = []
    with vl.progress_to(events.append):
        for item in tracked("ab", "bench", of=2, unit="round", message="words"):
            assert events[-1].done == "ab".index(item)
    assert events == [vl.Progress("bench", done, 2, "words", "round") for done in range(3)]


def test_a_loop_counts_several_at_once_and_says_what_it_is_about() -> None:
    events: list[vl.Progress] = []
    with vl.progress_to(events.append), about("int8"), counting("judge", None, "image") as advance:
        advance(16)
        advance(message="float")
    assert [(one.done, one.of, one.message) for one in events] == [
        (0, None, "int8"),
        (16, None, "int8"),
        (17, None, "float"),
    ]


def test_lines_are_events_without_a_unit_and_are_not_printed_where_a_function_takes_them(capsys) -> None:
    events: list[vl.Progress] = []
    with vl.progress_to(events.append), level("quiet"):
        report("train", 3, 50, "epoch  3/50")
        report("merge", 1, 1, "merged")
    assert events == [vl.Progress("train", 3, 50, "epoch  3/50"), vl.Progress("merge", 1, 1, "merged")]
    assert capsys.readouterr() == ("", "")


def test_lines_are_printed_but_where_it_is_quiet_and_cannot_steer_the_terminal(capsys) -> None:
    report("train", 1, 2, "epoch \x1b[31m1\nof 2")
    with level("quiet"):
        report("train", 2, 2, "hidden")
        report("merge", 1, 1, "hidden")
        with level("lines"):
            report("merge", 1, 1, "told")
    with level("quiet"):
        report("merge", 1, 1, "hidden")
    assert capsys.readouterr().out == "epoch \\x1b[31m1\nof 2\ntold\n"


@pytest.mark.parametrize(("stage", "left"), [("judge", ""), ("predict", "2/2")])
def test_a_bar_stands_on_a_terminal_and_goes_but_where_it_shows_the_rate(stage, left, capsys) -> None:
    with contextlib.redirect_stderr(_Screen()) as screen, about("base \x1b[31m"):
        list(tracked("ab", stage, of=2, unit="image"))
    assert "base \\x1b[31m:   0%" in screen.getvalue() and "0/2" in screen.getvalue()
    assert left in _last_row(screen) and bool(_last_row(screen)) == bool(left)
    assert capsys.readouterr().out == ""


def test_a_bar_goes_before_the_error_that_ends_its_loop_is_told() -> None:
    screen = _Screen()
    with contextlib.redirect_stderr(screen), pytest.raises(ValueError), counting("judge", 2, "image") as advance:
        advance()
        raise ValueError
    assert "0/2" in screen.getvalue() and _last_row(screen) == ""


def test_there_is_no_bar_where_it_is_quiet_or_no_terminal() -> None:
    with contextlib.redirect_stderr(_Screen()) as screen, level("quiet"):
        list(tracked("ab", "judge", of=2, unit="image"))
    with contextlib.redirect_stderr(io.StringIO()) as pipe:
        list(tracked("ab", "judge", of=2, unit="image"))
    assert screen.getvalue() == pipe.getvalue() == ""


def test_an_error_of_the_function_ends_the_loop() -> None:
    def stop(event: vl.Progress) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), vl.progress_to(stop):
        for item in tracked("abcd", "judge", of=4, unit="image"):
            seen.append(item)
    assert seen == ["a", "b"]


def test_the_function_is_called_in_no_other_thread() -> None:
    events: list[vl.Progress] = []
    with vl.progress_to(events.append):
        other = threading.Thread(target=lambda: list(tracked("ab", "judge", of=2, unit="image")))
        other.start()
        other.join()
    assert events == []


def test_what_was_set_ends_with_its_block() -> None:
    with pytest.raises(ValueError), level("verbose"), level("quiet"):
        assert current_level() == "quiet"
        raise ValueError
    assert current_level() == "lines"


def test_nothing_is_loaded_before_there_is_a_bar() -> None:
    code = "import sys, visionlora.progress as p; p.report('train', 1, 2, 'a line'); print('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "a line\nFalse\n"
