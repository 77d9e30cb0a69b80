"""Damaged bases end in an error of ours, or in a file that works: those without a checksum, too."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.mutants import damaged
from tests.tiny_onnx import NAMES, own_metadata, save
from visionlora.adapters import AdapterCard, AdapterSettings, ArrayAdapter, FoldedBase, FoldedNorm, save_arrays
from visionlora.adapters.folded_base import ENTRY
from visionlora.adapters.methods import LoRA
from visionlora.cards import preprocessing_card
from visionlora.errors import VisionLoraError
from visionlora.formats.seal import seal
from visionlora.patching import AdapterBank, patch, rollback
from visionlora.patching.patching import previous_of
from visionlora.tasks import DETECT

ANCHORS, OLD = 64, ("a", "b", "c", "d", "e")
BASE = {"name": "base.pt", "fingerprint": "ab" * 32}


def write_base(path: Path) -> Path:
    """Write a base of two convolutions, boxes with a batch normalization and scores without, and no checksum."""
    generator = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return generator.normal(0, 0.05, shape).astype(np.float32)

    node, info, floats = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    rows = len(OLD)
    constants = {
        "model.model.0.weight": random(4, 3, 8, 8),
        "model.model.0.bias": random(4),
        "model.model.1.weight": random(rows, 3, 8, 8),
        "model.model.1.bias": random(rows),
        "of boxes": np.array([1, 4, ANCHORS]),
        "of scores": np.array([1, rows, ANCHORS]),
        "unit": np.full((1, 4, 1), 64, np.float32),
    }
    options = {"kernel_shape": [8, 8], "strides": [8, 8]}
    nodes = [
        node("Conv", ["images", "model.model.0.weight", "model.model.0.bias"], ["c0"], **options),
        node("Reshape", ["c0", "of boxes"], ["r0"]),
        node("Sigmoid", ["r0"], ["s0"]),
        node("Mul", ["s0", "unit"], ["boxes"]),
        node("Conv", ["images", "model.model.1.weight", "model.model.1.bias"], ["c1"], **options),
        node("Reshape", ["c1", "of scores"], ["r1"]),
        node("Sigmoid", ["r1"], ["scores"]),
        node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "base",
        [info("images", floats, [1, 3, 64, 64])],
        [info("output0", floats, [1, 4 + rows, ANCHORS])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    one, none = np.ones(4, np.float32), np.zeros(4, np.float32)
    folded = FoldedBase(
        norms={"model.0": FoldedNorm(one, constants["model.model.0.bias"], none)},
        plain=("model.1",),
        class_outputs=("model.1",),
        unused=(),
        **BASE,
    )
    card = json.dumps({**own_metadata(), "names": list(OLD)})
    return save(graph, path, {"task": "detect", "visionlora": card, ENTRY: folded.to_entry()})


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Return a base without a checksum, and an adapter of other classes for it."""
    generator = np.random.default_rng(1)
    shapes = {
        "model.0.lora_A.weight": (2, 3, 8, 8),
        "model.0.lora_B.weight": (4, 2, 1, 1),
        "model.0.bias_delta": (4,),
        "model.1.weight": (len(NAMES), 3, 8, 8),
        "model.1.bias": (len(NAMES),),
    }
    tensors = {name: generator.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    card = AdapterCard(AdapterSettings(LoRA(rank=2)), NAMES, BASE, preprocessing_card(64), task=DETECT.name)
    save_arrays(ArrayAdapter(card, tensors), tmp_path / "adapter.safetensors")
    return {"model": write_base(tmp_path / "base.onnx"), "adapter": tmp_path / "adapter.safetensors"}


def test_damaged_bases_without_a_checksum(files, tmp_path) -> None:
    taken, content = 0, files["model"].read_bytes()
    patch(**files, out=tmp_path / "line.onnx")
    for mutant in damaged(content, 400):
        files["model"].write_bytes(mutant)
        with suppress(VisionLoraError):
            patch(**files, out=tmp_path / "line.onnx", overwrite=True)
            taken += 1
    assert 0 < taken < 350  # nobody notices a changed weight here


def test_damaged_bases_with_a_checksum(files, tmp_path) -> None:
    content = seal(files["model"].read_bytes())
    files["model"].write_bytes(content)
    whole = patch(**files, out=tmp_path / "line.onnx")
    for mutant in damaged(content, 350):
        files["model"].write_bytes(mutant)
        with suppress(VisionLoraError):
            AdapterBank(files["model"])
            made = patch(**files, out=tmp_path / "line.onnx", overwrite=True)
            # Only the name of the checksum's entry can be damaged unseen: the graph is the same.
            assert onnx.load(made.path).graph == onnx.load(whole.path).graph


def test_damaged_file_before_the_last_patch(files, tmp_path) -> None:
    line = tmp_path / "line.onnx"
    content = patch(**files, out=line).path.read_bytes()
    for mutant in damaged(content, 150):
        previous_of(line).write_bytes(mutant)
        with suppress(VisionLoraError):
            rollback(line)
            assert mutant == content or b"visionlora_sha256\x12" not in mutant
        assert line.read_bytes() == content or line.read_bytes() == mutant
        line.write_bytes(content)


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        ("adapter", "x.onnx", r"expected an adapter .*, got an ONNX file"),
        ("adapter", "merged.pt", r"expected an adapter .*, got a checkpoint"),
        ("model", "base.pt", r"expected an exported base \(\.onnx\), got a checkpoint; export it first"),
        ("model", "x.safetensors", r"expected an exported base \(\.onnx\), got a \.safetensors file"),
    ],
)
def test_file_of_another_kind_is_named(role, name, message, files, tmp_path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(VisionLoraError, match=message):
        patch(**{**files, role: tmp_path / name}, out=tmp_path / "line.onnx")
