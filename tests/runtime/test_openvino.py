"""The same network as an ONNX file and as an OpenVINO file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.tiny_onnx import NAMES, write_constant, write_detector
from visionlora.errors import ModelError, UsageError
from visionlora.runtime import OnnxNetwork, OpenVinoNetwork

openvino = pytest.importorskip("openvino")
FIELDS = {"task": "detect", "imgsz": [64, 64], "names": dict(enumerate(NAMES))}


def _converted(onnx: Path, **changes) -> Path:
    """Write an ONNX file as an OpenVINO model with the metadata that Ultralytics writes."""
    path = onnx.parent / "model_openvino_model" / "model.xml"
    path.parent.mkdir(exist_ok=True)
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    path.with_name("metadata.yaml").write_text(yaml.safe_dump({**FIELDS, **changes}))
    return path


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_is_that_of_onnxruntime(tmp_path, batch, count) -> None:
    onnx = write_detector(tmp_path / "a.onnx", batch=batch)
    network = OpenVinoNetwork(_converted(onnx))
    pictures = np.random.default_rng(0).random((count, 3, 64, 64), dtype=np.float32)

    (expected,), (found,) = OnnxNetwork(onnx)(pictures), network(pictures)

    assert (network.names, network.image_size, network.nms) == (NAMES, 64, True)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=0.7)  # may run in bfloat16
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=0.01)


def test_outputs_are_not_overwritten_by_the_next_call(tmp_path) -> None:
    network = OpenVinoNetwork(_converted(write_detector(tmp_path / "a.onnx")))
    (first,) = network(np.zeros((1, 3, 64, 64), np.float32))
    kept = first.copy()

    network(np.ones((1, 3, 64, 64), np.float32))

    np.testing.assert_array_equal(first, kept)


def test_a_file_of_fewer_outputs_than_its_task_has_is_refused(tmp_path) -> None:
    path = _converted(write_detector(tmp_path / "a.onnx"), task="segment")
    with pytest.raises(ModelError, match=r"model\.xml: expected a detector with one input and 2 outputs, .* 1 and 1"):
        OpenVinoNetwork(path)


def test_final_detections_need_no_suppression(tmp_path) -> None:
    row = np.array([[[4, 6, 20, 30, 0.9, 2]]], dtype=np.float32)

    network = OpenVinoNetwork(_converted(write_constant(tmp_path / "a.onnx", row, {})))

    assert network.nms is False
    np.testing.assert_allclose(
        network(np.zeros((1, 3, 64, 64), np.float32))[0][0, :, 0], [12, 18, 16, 24, 0, 0, 0.9], rtol=0.01
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"task": "segment"}, "task 'segment'"), ({"imgsz": [64, 32]}, "64 x 32"), ({"names": {0: "a"}}, "for 1 class")],
)
def test_other_models_are_refused(tmp_path, changes, message) -> None:
    with pytest.raises(ModelError, match=message):
        OpenVinoNetwork(_converted(write_detector(tmp_path / "a.onnx"), **changes))


def test_missing_and_broken_files_are_refused(tmp_path) -> None:
    path = _converted(write_detector(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match=r"expected a batch"):
        OpenVinoNetwork(path)(np.zeros((1, 3, 32, 32), np.float32))
    path.write_text("<net/>")
    with pytest.raises(ModelError, match="cannot load it"):
        OpenVinoNetwork(path)
    path.with_name("metadata.yaml").unlink()
    with pytest.raises(ModelError, match="expected names and imgsz"):
        OpenVinoNetwork(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"two files, \.xml and \.bin, found none"):
        OpenVinoNetwork(path)


def test_description_that_several_models_share_is_refused(tmp_path) -> None:
    path = _converted(write_detector(tmp_path / "a.onnx"))
    for suffix in (".xml", ".bin"):
        path.with_name(f"other{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
    with pytest.raises(ModelError, match=r"metadata\.yaml, which may be of any of model\.xml, other\.xml"):
        OpenVinoNetwork(path)

    path.with_name("metadata.yaml").rename(path.with_name("model.metadata.yaml"))
    assert OpenVinoNetwork(path).names == NAMES
    with pytest.raises(ModelError, match="found neither file"):
        OpenVinoNetwork(path.with_name("other.xml"))


def test_library_that_is_missing_is_named(tmp_path, monkeypatch) -> None:
    path = _converted(write_detector(tmp_path / "a.onnx"))
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(ModelError, match="pip install openvino"):
        OpenVinoNetwork(path)


def test_onnx_file_is_read_with_its_own_description(tmp_path) -> None:
    onnx = write_detector(tmp_path / "a.onnx")
    network, pictures = OpenVinoNetwork(onnx, threads=1), np.full((1, 3, 64, 64), 0.5, np.float32)

    np.testing.assert_allclose(network(pictures)[0][:, 4:], OnnxNetwork(onnx)(pictures)[0][:, 4:], atol=0.01)
    assert (network.names, network.image_size, network.metadata["kind"]) == (NAMES, 64, "onnx")
    stock = {"names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]"}
    assert OpenVinoNetwork(write_detector(tmp_path / "b.onnx", properties=stock)).metadata is None
    with pytest.raises(ModelError, match="names and imgsz in its metadata"):
        OpenVinoNetwork(write_detector(tmp_path / "c.onnx", properties={}))
    with pytest.raises(UsageError, match="threads: expected at least 1"):
        OpenVinoNetwork(onnx, threads=0)


def test_a_signal_after_another_thread_dropped_a_network_ends_nothing(tmp_path) -> None:
    onnx = write_detector(tmp_path / "a.onnx")
    script = f"""
import faulthandler, signal, threading
from visionlora.runtime import OpenVinoNetwork
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("signalled"))
networks = [OpenVinoNetwork({str(onnx)!r})]
thread = threading.Thread(target=networks.clear)
thread.start(), thread.join()
signal.raise_signal(signal.SIGUSR1)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
