"""A kept result is found again, and never under anything that could have changed it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.reporting.cases import EMPTY, random_case
from visionlora.reporting.retention import same
from visionlora.scoring.cache import KEPT, cache_key, keep_found, load_found
from visionlora.scoring.detect_split import SplitDetections
from visionlora.tasks import DETECT

KEY = "a" * 64


@pytest.fixture
def found() -> SplitDetections:
    return SplitDetections((*random_case(0, images=5, classes=2, detections=7)[1], EMPTY), ("a", "b"), task=DETECT)


def test_kept_result_is_the_same_bit_for_bit(found) -> None:
    keep_found(KEY, found)

    assert same(load_found(KEY, task=DETECT), found)


def test_result_without_any_detection_is_kept_too() -> None:
    keep_found(KEY, SplitDetections((EMPTY, EMPTY), (), task=DETECT))

    assert [len(one) for one in load_found(KEY, task=DETECT).detections] == [0, 0]


def test_nothing_is_found_where_nothing_was_kept() -> None:
    assert load_found(KEY, task=DETECT) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: b"", lambda data: data[:200] + data[210:]])
def test_damaged_file_counts_as_nothing(found, own_cache, damage) -> None:
    keep_found(KEY, found)
    path = own_cache / f"{KEY}.found"
    path.write_bytes(damage(path.read_bytes()))

    assert load_found(KEY, task=DETECT) is None


def test_file_under_another_name_counts_as_nothing(found, own_cache) -> None:
    keep_found(KEY, found)
    (own_cache / f"{KEY}.found").rename(own_cache / f"{'b' * 64}.found")

    assert load_found("b" * 64, task=DETECT) is None


def test_whatever_decides_changes_the_key(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    keys = [
        cache_key([a], ["x", "y"], imgsz=64),
        cache_key([b], ["x", "y"], imgsz=64),
        cache_key([a, b], ["x", "y"], imgsz=64),
        cache_key([a], ["y", "x"], imgsz=64),
        cache_key([a], ["x"], imgsz=64),
        cache_key([a], ["x", "y"], imgsz=96),
        cache_key([a], ["x", "y"], imgsz=64, names=["z"]),
    ]
    (tmp_path / "c").write_bytes(b"1")

    assert len(set(keys)) == len(keys)
    assert cache_key([tmp_path / "c"], ["x", "y"], imgsz=64) == keys[0]  # content counts, not the name


def test_folder_that_cannot_be_written_is_no_failure(found, own_cache, monkeypatch) -> None:
    (own_cache / "file").touch()
    monkeypatch.setenv("VISIONLORA_CACHE", str(own_cache / "file" / "under"))

    keep_found(KEY, found)

    assert load_found(KEY, task=DETECT) is None


def test_oldest_results_make_room(own_cache) -> None:
    for number in range(KEPT):
        (own_cache / f"{number:064x}.found").touch()
    oldest, other = own_cache / f"{0:064x}.found", own_cache / "my.npz"
    other.touch()
    for path in (oldest, other):
        os.utime(path, (1, 1))

    keep_found(KEY, SplitDetections((EMPTY,), (), task=DETECT))

    left = list(own_cache.glob("*.found"))
    assert len(left) == KEPT and not oldest.exists() and load_found(KEY, task=DETECT) is not None
    assert other.exists()  # a user's own file in the folder


def test_key_is_the_same_in_another_process(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    code = f"from visionlora.scoring.cache import cache_key; print(cache_key([{str(tmp_path / 'a')!r}], ['x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == cache_key([tmp_path / "a"], ["x"])
