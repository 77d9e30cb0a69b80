"""Files that lie: one clear error, bounded memory, and nothing of them is executed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import visionlora as vl
from tests.tiny_onnx import NAMES, own_metadata, save, write_detector
from visionlora.errors import DataError, ModelError
from visionlora.vision.preprocess import read_image

PACKAGE = Path(vl.__file__).parent
STOCK = {"task": "detect", "names": str(dict(enumerate(NAMES))), "imgsz": "[64, 64]"}


def own(**changes) -> dict[str, str]:
    return {"task": "detect", "visionlora": json.dumps({**own_metadata(), **changes})}


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        vl.Detector(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_model_is_refused(tmp_path, share):
    data = write_detector(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(len(data) * share)])
    refused(tmp_path / "cut.onnx", "expected an ONNX file")


def test_metadata_that_is_no_text_is_refused(tmp_path):
    whole = write_detector(tmp_path / "whole.onnx").read_bytes()
    assert whole.count(b'"padding"') == 1  # in the card
    (tmp_path / "bytes.onnx").write_bytes(whole.replace(b'"padding"', b'"padd\x80ng"'))
    refused(tmp_path / "bytes.onnx", "expected an ONNX file, onnxruntime cannot load it: 'utf-8' codec")


@settings(max_examples=60)
@given(st.data())
def test_a_model_with_wrong_bytes_is_refused_or_detects(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    whole = bytearray(write_detector(folder / "whole.onnx").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=5)):
        whole[position] = data.draw(st.integers(0, 255))
    (folder / "flipped.onnx").write_bytes(whole)
    try:
        found = vl.Detector(folder / "flipped.onnx").predict(np.zeros((48, 64, 3), np.uint8))
    except ModelError:
        return
    assert np.isfinite(found.boxes_xyxy).all() and (found.boxes_xyxy <= [64, 48, 64, 48]).all()


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, weight):
    model = onnx.load(write_detector(tmp_path / "a.onnx"))
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    values = numpy_helper.to_array(weights).copy()
    values[:] = weight
    weights.CopyFrom(numpy_helper.from_array(values, "weights"))
    onnx.save(model, tmp_path / "nan.onnx")
    # A sigmoid of infinity is 1, whatever the picture shows.
    refused(tmp_path / "nan.onnx", "no numbers; its file is broken" if np.isnan(weight) else "the same for two")


@pytest.mark.parametrize("place", ["outside", "absolute", "link"])
def test_weights_outside_the_models_folder_are_not_read(tmp_path, place):
    (tmp_path / "in").mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(7 * 3 * 8 * 8, np.float32).tobytes())
    (tmp_path / "in" / "link.bin").symlink_to(secret)
    location = {"outside": "../secret.bin", "absolute": str(secret), "link": "link.bin"}[place]
    model = onnx.load(write_detector(tmp_path / "a.onnx"))
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(7 * 3 * 64 * 4))):
        weights.external_data.add(key=key, value=value)
    (tmp_path / "in" / "model.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "in" / "model.onnx", "[Ee]xternal data")


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (own(names=["a", "b"]), "expected an output"),
        (own(names=["a"] * 100_000), "expected an output"),
        (own(names=["a", 2, "c"]), "metadata is broken"),
        (own(names=["a", ["b"], "c"]), "metadata is broken"),
        (own(preprocessing={**own_metadata()["preprocessing"], "image_size": 10**9}), "64 pixels, its metadata says"),
        (own(preprocessing={**own_metadata()["preprocessing"], "padding": 0}), "expected the preprocessing"),
        ({"visionlora": "[" * 100_000}, "metadata is broken"),
        ({"visionlora": '{"format": 1, "format": ' + "9" * 10_000 + "}"}, "metadata is broken"),
        ({**STOCK, "names": "__import__('os').system('touch executed')"}, "expected class names"),
        ({**STOCK, "names": "[" * 100_000}, "expected class names"),
        ({**STOCK, "names": "-" * 100_000 + "1"}, "expected class names"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_metadata_that_lies_is_refused_and_never_executed(tmp_path, monkeypatch, properties, message):
    monkeypatch.chdir(tmp_path)
    refused(write_detector(tmp_path / "a.onnx", properties=properties), message)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("imgsz", ["[1000000, 1000000]", "1000000", "[0, 0]", "[-64, -64]", "['a', 'a']", "{}", "7.5"])
def test_an_input_of_no_size_or_of_any_memory_is_refused(tmp_path, imgsz):
    path = write_detector(tmp_path / "a.onnx", batch="batch", properties={**STOCK, "imgsz": imgsz})
    refused(path, "expected (a square input|an input of at most)")


def test_a_batch_of_any_memory_is_refused(tmp_path):
    refused(write_detector(tmp_path / "a.onnx", batch=1_000_000), "expected an input of at most")


def lying_graph(path: Path, actual: list[int]) -> Path:
    """A graph that declares (1, 7, 64) and gives another shape, which nobody can know before it runs."""
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["shape", "whole"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["output0"]),
    ]
    constants = {"zero": np.float32(0), "shape": np.array(actual)}
    graph = helper.make_graph(
        nodes,
        "liar",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return save(graph, path, own())


@pytest.mark.parametrize("actual", [[1, 9, 64], [1, 7], [7, 64], [1, 7, 64, 1], [2, 7, 64], [0, 7, 64]], ids=str)
def test_a_graph_that_gives_something_else_than_it_declares_is_refused(tmp_path, actual):
    refused(lying_graph(tmp_path / "a.onnx", actual), "expected an output|no numbers")


@pytest.mark.parametrize("inputs", [0, 2])
def test_a_graph_of_other_inputs_is_refused(tmp_path, inputs):
    values = [helper.make_tensor_value_info(f"images{i}", TensorProto.FLOAT, [1, 3, 64, 64]) for i in range(inputs)]
    value = numpy_helper.from_array(np.zeros((1, 7, 64), np.float32), "value")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["value"], ["output0"])],
        "none",
        values,
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, 64])],
        [value],
    )
    refused(save(graph, tmp_path / "a.onnx", own()), "one input and one output")


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of one grey bit a pixel; `rows` is its compressed content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_of(code: str) -> tuple[str, int]:
    """What a process of its own prints, and how many bytes its memory grew by while `code` ran."""
    wrapped = f"""
import resource
import cv2, numpy as np
from visionlora.errors import DataError
from visionlora.vision.preprocess import letterbox, read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {code}
except DataError as error:
    print(error)
else:
    print("read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    run = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, check=True)
    said, grown = run.stdout.strip().splitlines()
    return said, int(grown)


@pytest.mark.parametrize("side", [20_000, 1_000_000])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path, side):
    rows = zlib.compress(bytes(20_000 * 2_501), 9)  # all of a 20 000 x 20 000 picture in 49 kB
    (tmp_path / "bomb.png").write_bytes(png(side, side, rows))
    assert (tmp_path / "bomb.png").stat().st_size < 60_000
    said, grown = peak_of(f"read_image({str(tmp_path / 'bomb.png')!r})")
    assert "bomb.png: expected an image of at most 134 million pixels" in said and grown < 20e6


def test_an_endless_file_is_read_no_further_than_its_first_bytes_need(tmp_path):
    said, _ = peak_of("read_image('/dev/null')")
    assert "expected a file, got a device" in said
    with open(tmp_path / "long.png", "wb") as file:
        file.write(png(8, 8, zlib.compress(bytes(16))))
        file.truncate(2 << 30)  # sparse: two gigabytes that take no disk
    said, _ = peak_of(f"read_image({str(tmp_path / 'long.png')!r})")
    assert "at most 1074 MB, got 2147 MB" in said


def test_a_huge_array_is_letterboxed_without_a_copy_of_it():
    said, grown = peak_of("image = np.zeros((20000, 20000, 3), np.uint8); letterbox(image[:, :, :], 64)")
    assert said == "read" and grown < 1.3e9  # the picture itself


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_picture_with_wrong_bytes_is_refused_or_read(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"flipped{suffix}"
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8), (40, 30))
    whole = bytearray(cv2.imencode(suffix, pixels)[1].tobytes())
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[position] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        image = read_image(path)
    except DataError as error:
        assert path.name in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size <= 3 << 27


RUNTIME_FILES = [
    *(path for room in ("runtime", "vision", "tasks") for path in (PACKAGE / room).glob("*.py")),
    PACKAGE / "cards.py",
]


@pytest.mark.parametrize("path", RUNTIME_FILES, ids=lambda path: path.name)
def test_nothing_on_the_device_can_execute_what_it_reads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name.split(".")[0] for name in imported} & {"pickle", "marshal", "shelve", "joblib", "dill", "torch"}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"eval", "exec", "compile", "__import__", "np.load", "numpy.load", "yaml.load"}
