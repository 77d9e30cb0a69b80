"""The bank: each adapter is its merged model; switching takes no time; threads may share it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.patching.conftest import exported_merged, random_adapter
from visionlora.adapters import load_arrays, save_arrays
from visionlora.errors import AdapterError, UsageError
from visionlora.patching import AdapterBank
from visionlora.runtime import Detector
from visionlora.vision.preprocess import read_image


@pytest.fixture(scope="module")
def second(checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """Return another adapter, of two classes, and its merged model's ONNX file."""
    folder = tmp_path_factory.mktemp("second")
    adapter = random_adapter(checkpoint, folder / "second.safetensors")
    return adapter, exported_merged(checkpoint, adapter, folder)


@pytest.fixture(scope="module")
def pictures(surface) -> list[np.ndarray]:
    return [read_image(path) for path in sorted((surface.parent / "images" / "val").iterdir())]


def rows(detector: Detector, pictures, confidence: float = 0.0005) -> list[np.ndarray]:
    found = detector.predict(pictures, confidence=confidence)
    return [np.column_stack([one.boxes_xyxy, one.scores, one.class_ids]) for one in found]


def test_each_adapter_is_its_merged_model(base_onnx, adapter, exported, second, pictures) -> None:
    bank = AdapterBank(base_onnx)
    bank.add("surface", adapter)
    bank.add("two", second[0])
    for name, model in (("surface", exported.path), ("two", second[1]), ("surface", exported.path)):
        expected, detector = Detector(model), bank.use(name)
        assert detector.names == expected.names
        for got, wanted in zip(rows(detector, pictures), rows(expected, pictures), strict=True):
            assert len(wanted)
            np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_int8_bank_runs_the_workstations_file(base_onnx, with_recipe, pictures) -> None:
    bank = AdapterBank(base_onnx, int8=True)
    bank.add("line", with_recipe[0])
    for got, wanted in zip(rows(bank.use("line"), pictures), rows(Detector(with_recipe[1]), pictures), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_switching_takes_no_time(base_onnx, adapter, second) -> None:
    bank = AdapterBank(base_onnx)
    bank.add("a", adapter)
    bank.add("b", second[0])
    seconds = []
    for turn in range(100):
        started = time.perf_counter()
        bank.use("ab"[turn % 2])
        seconds.append(time.perf_counter() - started)
    assert np.median(seconds) < 0.001


def test_those_used_last_are_kept_and_the_others_made_again(base_onnx, adapter, second, pictures) -> None:
    bank = AdapterBank(base_onnx, limit=2)
    first = bank.add("a", adapter)
    before = rows(first, pictures)
    bank.add("b", second[0])
    bank.use("a")
    bank.add("c", second[0])
    assert bank.names == ("a", "b", "c") and bank.ready == ("a", "c")
    assert bank.use("a") is first
    bank.use("b")
    assert bank.ready == ("a", "b")
    bank.use("c")
    again = bank.use("a")
    assert again is not first
    for got, wanted in zip(rows(again, pictures), before, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(rows(first, pictures)[0], before[0])  # whoever holds it may go on


def test_removed_and_unknown_adapters_are_refused_by_name(base_onnx, adapter) -> None:
    bank = AdapterBank(base_onnx)
    bank.add("a", adapter)
    bank.remove("a")
    for call in (bank.use, bank.remove):
        with pytest.raises(UsageError, match="adapter 'a': not in the bank; it has none"):
            call("a")
    with pytest.raises(UsageError, match="at least 1 detector"):
        AdapterBank(base_onnx, limit=0)


def test_adapter_of_another_base_leaves_the_bank_as_it_was(base_onnx, adapter, tmp_path) -> None:
    bank = AdapterBank(base_onnx)
    bank.add("a", adapter)
    kept = bank.use("a")
    loaded = load_arrays(adapter)
    card = replace(loaded.card, base={**loaded.card.base, "fingerprint": "0" * 64})
    save_arrays(replace(loaded, card=card), tmp_path / "lie.safetensors")
    with pytest.raises(AdapterError, match="belongs to"):
        bank.add("a", tmp_path / "lie.safetensors")
    assert bank.use("a") is kept


def test_threads_share_a_bank_that_is_too_small_for_them(base_onnx, adapter, second, pictures) -> None:
    bank = AdapterBank(base_onnx, limit=1, threads=1)
    bank.add("a", adapter)
    bank.add("b", second[0])
    expected = {name: rows(bank.use(name), pictures[:1])[0] for name in "ab"}
    stop = threading.Event()

    def add_and_remove() -> None:
        while not stop.is_set():
            bank.add("c", adapter)
            bank.remove("c")

    def work(number: int) -> None:
        for turn in range(6):
            name = "ab"[(number + turn) % 2]
            np.testing.assert_array_equal(rows(bank.use(name), pictures[:1])[0], expected[name])

    with ThreadPoolExecutor(5) as pool:
        other = pool.submit(add_and_remove)
        try:
            for done in [pool.submit(work, number) for number in range(4)]:
                done.result(timeout=120)
        finally:
            stop.set()
        other.result(timeout=120)
    assert set(bank.names) == {"a", "b"} and len(bank.ready) <= 1


def test_one_detector_is_made_when_many_ask_for_it(base_onnx, adapter, second) -> None:
    bank = AdapterBank(base_onnx, limit=1, threads=1)
    bank.add("a", adapter)
    bank.add("b", second[0])
    with ThreadPoolExecutor(4) as pool:
        detectors = list(pool.map(lambda _: bank.use("a"), range(4)))
    assert len({id(detector) for detector in detectors}) == 1


def test_the_bank_needs_no_torch(base_onnx, adapter) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ultralytics'] = None; import visionlora as vl; "
        f"bank = vl.AdapterBank({str(base_onnx)!r}); bank.add('a', {str(adapter)!r}); print(len(bank.use('a').names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) == len(load_arrays(adapter).card.names), done.stderr
