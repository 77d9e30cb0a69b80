"""A bundle's folder changes as a whole, whenever the process is killed, and nothing of the user's goes."""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.bundling import folder as bundle_folder
from visionlora.bundling.folder import repair, write_folder
from visionlora.errors import ModelError, OutputError


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def is_killed(step: int, work: Callable[[], object]) -> bool:
    """Do some work in a process that ends when it asks the system for a change for the `step`th time; say if it did."""
    process = os.fork()  # starting Python for each step takes longer than all the rest
    if process == 0:
        count = 0

        def counted(real):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return real(*arguments, **options)

            return call

        def write_bytes(path: Path, data: bytes) -> None:
            with open(path, "wb", buffering=0) as file:
                file.write(data[: len(data) // 2])
                os.fsync(file.fileno())
                file.write(data[len(data) // 2 :])

        for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        Path.write_bytes = write_bytes  # type: ignore[method-assign,assignment]
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kill is simulated in a forked process")
def test_kill_at_any_step_leaves_the_old_or_the_new_bundle(tiny, rewrite, tmp_path) -> None:
    new = rewrite(Path(shutil.copytree(tiny, tmp_path / "new")), licence="MIT")
    old, wanted, out = content(tiny), content(new), tmp_path / "device" / "out"
    seen = []
    while True:
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(tiny, out)
        if not is_killed(len(seen) + 1, lambda: write_folder(wanted, out, overwrite=True)):
            break
        repair(out)
        assert content(out) in (old, wanted) and [path.name for path in out.parent.iterdir()] == ["out"]
        seen.append(content(out) == wanted)
    assert len(seen) > 20 and seen == sorted(seen) and set(seen) == {False, True}  # the old one, then the new one


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kill is simulated in a forked process")
def test_repair_can_be_killed_too_and_is_done_by_whoever_reads(tiny, rewrite, tmp_path) -> None:
    out, step = tmp_path / "device" / "out", 0
    while True:
        step += 1
        shutil.rmtree(out.parent, ignore_errors=True)
        for name in (".out.old", ".out.new"):  # as between the two renames
            shutil.copytree(tiny, out.parent / name)
        if not is_killed(step, lambda: repair(out)):
            break
        assert vl.open_bundle(out).path == out
        vl.unbundle(tiny, out, overwrite=True)
        assert content(out) == content(tiny) and [path.name for path in out.parent.iterdir()] == ["out"]
    assert step > 8


def test_folder_that_is_no_bundle_is_left_alone(tiny, tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for write in (
        lambda: vl.unbundle(tiny, mine, overwrite=True),
        lambda: vl.bundle(tiny / "model.onnx", mine, overwrite=True),
    ):
        with pytest.raises(OutputError, match=r"its manifest\.json is missing or broken; nothing there is changed"):
            write()
    (tmp_path / "note").write_text("mine")
    with pytest.raises(OutputError, match="expected the folder of a bundle to replace, got a file"):
        vl.unbundle(tiny, tmp_path / "note", overwrite=True)
    assert content(mine) == {"thesis.tex": b"years of work"} and (tmp_path / "note").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line", "mine", "note"]


@pytest.mark.parametrize("added", ["notes.txt", "sub/notes.txt", "__pycache__/notes.txt", "__pycache__/mine.pyc"])
def test_file_that_a_user_has_added_is_kept_and_named(added, tiny, tmp_path) -> None:
    out = tmp_path / "out"
    vl.unbundle(tiny, out)
    (out / added).parent.mkdir(exist_ok=True)
    (out / added).write_text("mine")
    before = sorted(out.rglob("*"))
    for write in (
        lambda: vl.unbundle(tiny, out, overwrite=True),
        lambda: vl.bundle(tiny / "model.onnx", out, overwrite=True),
    ):
        with pytest.raises(OutputError, match=f"'{added.split('/')[0]}'; nothing is changed"):
            write()
    assert sorted(out.rglob("*")) == before and (out / added).read_text() == "mine"


def test_what_python_caches_of_the_runner_may_go(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    vl.unbundle(tiny, out)
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "detect.cpython-311.pyc").write_bytes(b"")
    vl.unbundle(tiny, out, overwrite=True)
    assert content(out) == content(tiny)


def test_empty_folder_and_folder_behind_a_link_are_taken(tiny, tmp_path) -> None:
    real, link = tmp_path / "version-1", tmp_path / "current"
    real.mkdir()
    link.symlink_to(real)
    for _ in range(2):
        vl.unbundle(tiny, link, overwrite=True)
        assert link.is_symlink() and content(real) == content(tiny)


def test_file_that_a_link_in_the_bundle_leads_to_stays(tiny, tmp_path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.onnx"
    vl.unbundle(tiny, out)
    (out / "model.onnx").rename(elsewhere)
    (out / "model.onnx").symlink_to(elsewhere)
    vl.unbundle(tiny, out, overwrite=True)
    assert elsewhere.read_bytes() == (out / "model.onnx").read_bytes() and not (out / "model.onnx").is_symlink()


def test_older_bundle_replaces_a_newer_one_only_if_asked(tiny, rewrite, keys, tmp_path) -> None:
    out = tmp_path / "out"
    newer = rewrite(Path(shutil.copytree(tiny, tmp_path / "newer")), created="2999-01-01T00:00:00Z")
    vl.unbundle(newer, out, key=keys[1])
    vl.unbundle(newer, out, key=keys[1], overwrite=True)  # as old is not older
    with pytest.raises(OutputError, match=r"holds a bundle of 2999-01-01T00:00:00Z, this one is older.*--downgrade"):
        vl.unbundle(tiny, out, key=keys[1], overwrite=True)
    assert content(out) == content(newer)
    vl.unbundle(tiny, out, key=keys[1], overwrite=True, downgrade=True)
    assert content(out) == content(tiny)


def test_time_of_a_bundle_can_be_given_and_must_be_one(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1738324800")
    made = vl.bundle(write_detector(tmp_path / "model.onnx"), tmp_path / "a.zip")
    assert made.manifest.created == "2025-01-31T12:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(vl.errors.UsageError, match="expected seconds since 1970"):
        vl.bundle(tmp_path / "model.onnx", tmp_path / "b.zip")


def test_full_disk_leaves_the_old_bundle_alone(tiny, rewrite, tmp_path, monkeypatch) -> None:
    out = tmp_path / "device" / "out"
    vl.unbundle(tiny, out)
    writes = []

    def write_bytes(path: Path, data: bytes) -> None:
        writes.append(path.name)
        if len(writes) % 3 == 0:
            raise OSError(28, "No space left on device")
        path.open("wb").write(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OutputError, match="No space left on device"):
        write_folder(content(tiny), out, overwrite=True)
    assert content(out) == content(tiny) and [path.name for path in out.parent.iterdir()] == ["out"]


def test_two_writers_wait_for_each_other(tiny, tmp_path, monkeypatch) -> None:
    files, out, inside, real = content(tiny), tmp_path / "device" / "out", [], bundle_folder._replace

    def replace(*arguments: object) -> None:
        inside.append(1)
        assert len(inside) == 1
        real(*arguments)  # type: ignore[arg-type]
        inside.pop()

    monkeypatch.setattr(bundle_folder, "_replace", replace)
    threads = [threading.Thread(target=write_folder, args=(files, out), kwargs={"overwrite": True}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside and content(out) == files and [path.name for path in out.parent.iterdir()] == ["out"]


def test_users_file_in_a_leftover_is_kept_and_named(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    vl.unbundle(tiny, out)
    shutil.copytree(tiny, tmp_path / ".out.old")
    (tmp_path / ".out.old" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"\.out\.old: holds 1 files that no bundle has put there: 'mine\.txt'"):
        vl.unbundle(tiny, out, overwrite=True)
    assert (tmp_path / ".out.old" / "mine.txt").read_text() == "mine" and content(out) == content(tiny)


def test_missing_bundle_is_no_more_than_missing(tmp_path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        vl.open_bundle(tmp_path / "absent")
    assert not any(tmp_path.iterdir())


def test_a_zip_that_is_no_bundle_is_not_replaced(exported, tmp_path) -> None:
    out = tmp_path / "photos.zip"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("holiday.jpg", b"precious")
    before = out.read_bytes()
    with pytest.raises(OutputError, match="expected a bundle to replace"):
        vl.bundle(exported.path, out, overwrite=True)
    assert out.read_bytes() == before
