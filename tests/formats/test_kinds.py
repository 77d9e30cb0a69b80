from __future__ import annotations

from pathlib import Path

import pytest

from visionlora import runtime
from visionlora.errors import UsageError
from visionlora.formats.kinds import ADAPTER, BUNDLE, EXPORTED, FILES, KINDS, ONNX, ONNX_ADAPTER


def test_a_suffix_means_one_kind_and_its_runtime() -> None:
    assert {suffix: kind.runtime for suffix, kind in KINDS.items()} == {
        ".pt": "torch",
        ".pth": "torch",
        ".onnx": "onnxruntime",
        ".xml": "openvino",
        ".param": "ncnn",
        ".tflite": "litert",
    }


def test_the_runtime_of_every_exported_kind_has_a_network() -> None:
    assert {kind.runtime for kind in EXPORTED.values()} == set(runtime._NETWORKS)


def test_a_name_to_write_to_must_end_as_its_kind_does() -> None:
    ONNX.check_out(Path("a.onnx"))
    with pytest.raises(UsageError, match=r"^--out a\.pt: expected a name that ends in \.onnx$"):
        ONNX.check_out(Path("a.pt"))


def test_adapters_and_bundles_are_files_but_no_detectors() -> None:
    others = set(FILES.values()) - set(KINDS.values())
    assert others == {ADAPTER, ONNX_ADAPTER, BUNDLE} and not any(kind.runtime for kind in others)


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
