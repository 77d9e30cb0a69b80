"""Graphs that others exported become int8, and the first layers of a real one compute what their ranges say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from ultralytics import YOLO

from tests.quantization.graphs import rounded, rounded_conv, run, sigmoid, tensors_of
from visionlora.data import load_dataset
from visionlora.errors import ModelError
from visionlora.formats.seal import unseal
from visionlora.int8 import apply_recipe, load_float_model
from visionlora.int8.ranges import UNIT_RANGE
from visionlora.int8.scheme import X86
from visionlora.quantization import calibrate, quantize, sums_saturate
from visionlora.runtime import OnnxNetwork
from visionlora.tasks import DETECT
from visionlora.vision.preprocess import letterbox, read_image

SIDE = 96


def pictures_of(surface: Path, count: int) -> list[np.ndarray]:
    images = load_dataset(surface, splits=("train",)).split("train")[:count]
    return [letterbox(read_image(image.path), SIDE)[0][None] for image in images]


@pytest.mark.parametrize(("opset", "simplify"), [(13, False), (17, True), (20, False)])
def test_an_export_of_ultralytics_becomes_int8(opset, simplify, checkpoint, surface, tmp_path):
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes())
    options = {"imgsz": SIDE, "opset": opset, "simplify": simplify, "verbose": False}
    path = YOLO(tmp_path / "model.pt").export(format="onnx", **options)

    assert_becomes_int8(Path(path), surface, tmp_path / "int8.onnx", opset=opset)


def assert_becomes_int8(path: Path, surface: Path, out: Path, *, opset: int) -> None:
    made = quantize(path, surface, out, images=6)
    assert onnx.load(made.path).opset_import[0].version == opset
    assert made.int8_convs == made.convs > 80
    picture = pictures_of(surface, 1)[0]
    wanted, got = (OnnxNetwork(one)(picture)[0][0] for one in (path, made.path))
    assert np.corrcoef(wanted[4:].ravel(), got[4:].ravel())[0, 1] > 0.95
    assert np.abs(got[:4] - wanted[:4]).mean() < 0.03 * SIDE


def export_by_dynamo(checkpoint: Path, path: Path, **options: object) -> Path:
    """Export with torch's own exporter, which traces without names of modules, and add the class names."""
    pytest.importorskip("onnxscript")
    detector = YOLO(checkpoint)
    network = detector.model.float().eval()
    network.model[-1].export, network.model[-1].format = True, "onnx"
    shown = (torch.zeros(1, 3, SIDE, SIDE),)
    torch.onnx.export(network, shown, path, dynamo=True, external_data=False, verbose=False, **options)
    model = onnx.load(path)
    helper.set_model_props(model, {"names": str(detector.names)})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [18, 20])
def test_an_export_of_torchs_dynamo_becomes_int8(opset, checkpoint, surface, tmp_path):
    path = export_by_dynamo(checkpoint, tmp_path / "model.onnx", opset_version=opset)
    assert_becomes_int8(path, surface, tmp_path / "int8.onnx", opset=opset)


def test_a_graph_with_batch_normalization_left_says_how_to_export_it(checkpoint, surface, tmp_path):
    path = export_by_dynamo(checkpoint, tmp_path / "model.onnx", optimize=False)
    with pytest.raises(ModelError, match=r"expected batch normalization folded .* \(model\.eval\(\), optimize=True\)"):
        quantize(path, surface, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_weights_in_another_file_missing_names_and_further_outputs_say_what_to_do(exported, surface, tmp_path):
    model = onnx.load(exported.path)
    unseal(model)
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data")
    model.graph.output.append(helper.make_empty_tensor_value_info(model.graph.node[0].output[0]))
    onnx.save(model, tmp_path / "several.onnx")
    del model.graph.output[-1], model.metadata_props[:]
    onnx.save(model, tmp_path / "nameless.onnx")

    with pytest.raises(ModelError, match="weights, got some in another; export with external_data=False"):
        quantize(tmp_path / "apart.onnx", surface, tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match=r"expected class names .* add them: model\.metadata_props\.add"):
        quantize(tmp_path / "nameless.onnx", surface, tmp_path / "int8.onnx")
    with pytest.raises(ModelError, match=r"with 1 and 2; export its predictions alone .*export = True"):
        quantize(tmp_path / "several.onnx", surface, tmp_path / "int8.onnx")


def test_the_first_layers_of_a_real_model_compute_what_their_ranges_say(exported, surface):
    model = load_float_model(exported.path, DETECT)
    shown = pictures_of(surface, 4)
    recipe = calibrate(model, shown, X86)
    written = apply_recipe(model, recipe)
    tensors, ranges = tensors_of(model), recipe.ranges
    # One after the other: convolution, sigmoid, product, convolution.
    first, gate, product, second = model.graph.node[:4]
    assert [one.op_type for one in (first, gate, product, second)] == ["Conv", "Sigmoid", "Mul", "Conv"]

    def convolved(x: np.ndarray, layer: onnx.NodeProto) -> np.ndarray:
        made = rounded_conv(
            x, tensors[layer.input[1]], tensors[layer.input[2]], ranges[layer.input[0]], stride=2, pad=1
        )
        return rounded(made, ranges[layer.output[0]])

    a = convolved(rounded(shown[0], UNIT_RANGE), first)
    b = rounded(a * rounded(sigmoid(a), ranges[gate.output[0]]), ranges[product.output[0]])
    wanted = ranges[second.output[0]].quantize(convolved(b, second)).astype(int)

    computed = next(one.output[0] for one in written.graph.node if one.name == second.name)
    levels = next(one.output[0] for one in written.graph.node if one.input[0] == computed)
    del written.graph.output[:]
    written.graph.output.append(helper.make_tensor_value_info(levels, TensorProto.UINT8, None))
    for optimised in (False, *([] if sums_saturate() else [True])):  # integer kernels, where they are exact
        apart = np.abs(run(written, shown[0], optimised=optimised).astype(int) - wanted)
        assert len(np.unique(wanted)) > 50
        assert apart.max() <= 3 and np.mean(apart > 0) < 0.03  # where a rounding is a tie
