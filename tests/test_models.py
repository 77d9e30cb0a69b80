from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_onnx import NAMES, write_detector
from visionlora.errors import ModelError, UsageError
from visionlora.models import open_network, parse_spec, parse_specs


@pytest.mark.parametrize(
    ("text", "label", "path", "adapter"),
    [
        ("runs/model.onnx", "model.onnx", "runs/model.onnx", None),
        ("steel=runs/model.onnx", "steel", "runs/model.onnx", None),
        ("yolo11n.pt", "yolo11n.pt", "yolo11n.pt", None),
        ("a.pt+b/adapter.safetensors", "adapter.safetensors", "a.pt", "b/adapter.safetensors"),
        ("my adapter=a+b.pt+c.safetensors", "my adapter", "a+b.pt", "c.safetensors"),
        ("runs/lr=0.1/best.pt", "best.pt", "runs/lr=0.1/best.pt", None),
        ("x=runs/lr=0.1/best.pt", "x", "runs/lr=0.1/best.pt", None),
    ],
)
def test_text_names_a_model(text, label, path, adapter) -> None:
    spec = parse_spec(text)

    assert (spec.label, spec.path) == (label, Path(path))
    assert spec.adapter == (Path(adapter) if adapter else None)
    assert spec.file == (spec.adapter or spec.path)


def test_existing_file_with_an_equals_sign_is_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=2.pt").touch()

    assert parse_spec("lr=2.pt").path == Path("lr=2.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adapter.safetensors", r"needs its base: write base\.pt\+adapter\.safetensors"),
        ("model.engine", r"expected a \.pt, \.pth, \.onnx, \.xml, \.param or \.tflite file"),
        ("model.onnx+adapter.safetensors", r"belongs to a \.pt base"),
        ("=model.onnx", "label before '=' is empty"),
    ],
)
def test_text_that_names_no_model_is_refused(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        parse_spec(text)


def test_equal_file_names_are_told_apart_by_their_paths() -> None:
    labels = [spec.label for spec in parse_specs(["a/m.onnx", "b/m.onnx", "other.onnx"])]

    assert labels == ["a/m.onnx", "b/m.onnx", "other.onnx"]


@pytest.mark.parametrize("texts", [["x=a.onnx", "x=b.onnx"], ["a.onnx", "a.onnx"]])
def test_equal_labels_are_refused(texts) -> None:
    with pytest.raises(UsageError, match="tell them apart with label=path"):
        parse_specs(texts)


def test_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one model"):
        parse_specs([])


def test_onnx_file_opens(tmp_path) -> None:
    network = open_network(f"label={write_detector(tmp_path / 'a.onnx')}")

    assert (network.names, network.image_size) == (NAMES, 64)


def test_onnx_file_opens_without_torch(tmp_path) -> None:
    path = write_detector(tmp_path / "a.onnx")
    code = (
        f"import sys; from visionlora.models import open_network; open_network({str(path)!r}); "
        "print({'torch', 'ultralytics', 'onnx', 'PIL', 'matplotlib', 'pydantic'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_onnx_file_of_another_size_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="made for 64 px, but 320 px were asked for"):
        open_network(write_detector(tmp_path / "a.onnx"), image_size=320)


def test_missing_onnx_file_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx"):
        open_network(tmp_path / "none.onnx")


def test_onnx_file_may_be_run_by_openvino() -> None:
    spec, named = parse_spec("openvino:runs/model.onnx"), parse_spec("fast=openvino:runs/model.onnx")
    assert (spec.label, spec.path, spec.runtime) == ("openvino:model.onnx", Path("runs/model.onnx"), "openvino")
    assert (named.label, named.path, named.runtime) == ("fast", spec.path, "openvino")
    assert parse_spec("runs/model.onnx").runtime == "onnxruntime"
    with pytest.raises(UsageError, match=r"expected an \.onnx file after 'openvino:'"):
        parse_spec("openvino:model.pt")
