from __future__ import annotations

from pathlib import Path

import pytest

from visionlora import runtime
from visionlora.formats.kinds import EXPORTED, KINDS


def test_a_suffix_means_one_kind_and_its_runtime() -> None:
    assert {suffix: kind.runtime for suffix, kind in KINDS.items()} == {
        ".pt": "torch",
        ".onnx": "onnxruntime",
        ".xml": "openvino",
        ".param": "ncnn",
        ".tflite": "litert",
    }


def test_the_runtime_of_every_exported_kind_has_a_network() -> None:
    assert {kind.runtime for kind in EXPORTED.values()} == set(runtime._NETWORKS)


@pytest.mark.parametrize(
    ("path", "parts", "files"),
    [
        ("a/m.pt", ["a/m.pt"], ["a/m.pt"]),
        ("a/m.onnx", ["a/m.onnx"], ["a/m.onnx"]),
        ("a/m.tflite", ["a/m.tflite"], ["a/m.tflite"]),
        ("a/m.xml", ["a/m.xml", "a/m.bin"], ["a/m.bin", "a/m.metadata.yaml", "a/m.xml"]),
        ("a/m.param", ["a/m.param", "a/m.bin"], ["a/m.bin", "a/m.metadata.yaml", "a/m.param"]),
        (
            "m_ncnn_model/m.param",
            ["m_ncnn_model/m.param", "m_ncnn_model/m.bin"],
            [f"m_ncnn_model/{name}" for name in ("m.bin", "m.metadata.yaml", "metadata.yaml", "m.param")],
        ),
    ],
)
def test_weights_and_description_lie_beside_models_of_two_files(path: str, parts: list[str], files: list[str]) -> None:
    kind = KINDS[Path(path).suffix]
    assert [str(part) for part in kind.parts(Path(path))] == parts
    assert [str(file) for file in kind.files(Path(path))] == files
