"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from visionlora.errors import OutputError
from visionlora.files import atomic_output, exclusive, refuse_existing, remove_partials, sha256_of


def test_failure_keeps_the_old_file_and_leaves_no_partial_one(tmp_path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_output(target) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_partial_file_keeps_the_suffix_and_the_permissions_of_a_plain_file(tmp_path) -> None:
    (tmp_path / "plain").touch()
    with atomic_output(tmp_path / "deep" / "a.onnx") as partial:
        assert partial.suffix == ".onnx"
    assert (tmp_path / "deep" / "a.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_that_cannot_be_made_is_an_output_error(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), atomic_output(tmp_path / "file" / "a.txt"):
        pass


def test_existing_file_is_refused_unless_overwriting(tmp_path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        refuse_existing(tmp_path / "a")
    assert refuse_existing(tmp_path / "a", overwrite=True) == tmp_path / "a"


def test_sha256_is_that_of_the_bytes(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_leftovers_of_killed_processes_go_and_nothing_else(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    long_ago = time.time() - 48 * 3600
    old, future, living, fresh, other, folder = (
        tmp_path / f".a.{ended.pid}.partial.txt",
        tmp_path / f".a.{ended.pid}2.partial.txt",
        tmp_path / f".a.{os.getppid()}.partial.txt",
        tmp_path / f".a.{ended.pid}0.partial.txt",
        tmp_path / f".b.{ended.pid}.partial.txt",
        tmp_path / f".a.{ended.pid}1.partial.txt",
    )
    for file in (old, future, living, fresh, other):
        file.write_text("part")
    folder.mkdir()
    for path in (old, living, other, folder):
        os.utime(path, (long_ago, long_ago))
    os.utime(future, (time.time() + 48 * 3600,) * 2)
    with atomic_output(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", living, fresh, other, folder])
    os.utime(fresh, (time.time() + 3600,) * 2)
    remove_partials(tmp_path)  # nobody else can write here
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", living, folder])


def test_name_is_on_the_disk_too(tmp_path, monkeypatch) -> None:
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_ino), real(number)))
    with atomic_output(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert synced == [(tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino]


def _hold(folder: Path, *, first: str = "pass", then: str = "sys.stdin.read()") -> subprocess.Popen:
    """Start a process that holds a folder and says so."""
    code = "import sys, os, time\nfrom visionlora.files import exclusive\nwith exclusive(sys.argv[1]):\n"
    code += f"    {first}\n    print('held', flush=True)\n    {then}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_process_holds_is_refused_with_its_number(tmp_path) -> None:
    process = _hold(tmp_path / "run")
    with (
        pytest.raises(OutputError, match=rf"run: process {process.pid} on .* is writing there"),
        exclusive(tmp_path / "run"),
    ):
        pass
    process.communicate("")
    with exclusive(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_killed_process_holds_nothing_though_a_forked_one_lives_on(tmp_path) -> None:
    process = _hold(tmp_path / "run", first="os.fork() or time.sleep(10); time.sleep(0.5)", then="time.sleep(10)")
    process.kill()
    process.wait()
    with exclusive(tmp_path / "run"):
        pass


def test_a_folder_may_be_held_again_within_and_not_by_another_thread(tmp_path) -> None:
    refused = []

    def other() -> None:
        try:
            with exclusive(tmp_path):
                pass
        except OutputError as error:
            refused.append(str(error))

    with exclusive(tmp_path), exclusive(tmp_path / "." / ""):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"process {os.getpid()} " in refused[0]
    assert not list(tmp_path.iterdir())


def test_what_was_written_into_a_held_folder_stays(tmp_path) -> None:
    with exclusive(tmp_path / "a" / "b"):
        (tmp_path / "a" / "note.txt").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "note.txt"]


def test_a_file_in_place_of_a_folder_is_said(tmp_path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="it is a file; expected a folder"), exclusive(tmp_path / "run"):
        pass
