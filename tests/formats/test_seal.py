"""An ONNX file of ours carries the checksum of its bytes, and whoever reads it notices what has changed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.tiny_onnx import write_detector
from visionlora.errors import ModelError
from visionlora.formats.seal import KEY, check_entry, is_sealed, seal, unseal
from visionlora.runtime import Detector, OnnxNetwork
from visionlora.runtime.description import described_inside

RUNNER = Path(__file__).parents[2] / "export" / "detect.py"


@pytest.fixture
def sealed(tmp_path) -> Path:
    """Return a tiny detector with its checksum."""
    path = write_detector(tmp_path / "model.onnx")
    path.write_bytes(seal(path.read_bytes()))
    return path


@pytest.fixture(scope="module")
def runner():
    """Return detect.py as a module."""
    spec = importlib.util.spec_from_file_location("detect", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sealed_file_is_the_same_network_with_one_entry_more(sealed, runner) -> None:
    model = onnx.load(sealed)
    onnx.checker.check_model(model)
    assert [entry.key for entry in model.metadata_props][-1] == KEY and is_sealed(sealed)
    assert model.SerializeToString(deterministic=True) == sealed.read_bytes()  # written again, it is the same file
    unseal(model)
    assert seal(model.SerializeToString(deterministic=True)) == sealed.read_bytes()
    assert OnnxNetwork(sealed).metadata is not None and described_inside(sealed).image_size == 64
    assert runner.Detector(sealed).image_size == 64


def test_every_flipped_bit_is_noticed_or_harmless(sealed, runner) -> None:
    content = sealed.read_bytes()
    generator, expected = np.random.default_rng(0), OnnxNetwork(sealed)(np.full((1, 3, 64, 64), 0.5, np.float32))[0]
    harmless = 0
    for place in (*generator.integers(0, len(content), 150), *range(len(content) - 90, len(content))):
        broken = bytearray(content)
        broken[place] ^= 1 << int(generator.integers(8))
        sealed.write_bytes(broken)
        try:
            network = OnnxNetwork(sealed)
        except ModelError:
            with pytest.raises(ValueError, match=r"model\.onnx: "):
                runner.Detector(sealed)
            continue
        assert (network(np.full((1, 3, 64, 64), 0.5, np.float32))[0] == expected).all()
        harmless += 1
    assert harmless <= 21  # the bytes around the checksum: its name


@pytest.mark.parametrize("again", [False, True], ids=["at the end", "elsewhere"])
def test_edited_file_is_refused_until_the_entry_is_dropped(again, sealed, runner) -> None:
    model = onnx.load(sealed)
    model.graph.name = "edited"
    if again:
        model.metadata_props.add(key="more", value="text")
    onnx.save(model, sealed)
    for read in (OnnxNetwork, Detector, described_inside):
        with pytest.raises(ModelError, match=f"damaged or edited.*remove the entry '{KEY}'"):
            read(sealed)
    with pytest.raises(ValueError, match="edited"):
        runner.Detector(sealed)
    unseal(model)
    onnx.save(model, sealed)
    assert Detector(sealed).image_size == described_inside(sealed).image_size == runner.Detector(sealed).image_size


def test_content_in_memory_is_checked_as_the_file_is(sealed) -> None:
    content = sealed.read_bytes()
    assert OnnxNetwork("absent.onnx", content=content).image_size == 64
    with pytest.raises(ModelError, match=r"absent\.onnx: damaged or edited"):
        OnnxNetwork("absent.onnx", content=content[:200] + b"x" + content[201:])


def test_file_without_a_checksum_has_none(tmp_path) -> None:
    for size in (0, 1, 86, 87, 88, 5000):
        (tmp_path / "a.onnx").write_bytes(bytes(size))
        assert not is_sealed(tmp_path / "a.onnx") and not is_sealed("a.onnx", bytes(size))
    check_entry("a.onnx", {}, sealed=False)
    check_entry("a.onnx", {KEY: ""}, sealed=True)
