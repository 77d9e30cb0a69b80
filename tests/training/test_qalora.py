"""QA-LoRA end to end on a tiny detector: the file holds exactly what was trained, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from visionlora import cli
from visionlora.adapters.torch import attach, load_adapter, load_adapter_tensors
from visionlora.data import load_dataset
from visionlora.data.leakage import calibration_images
from visionlora.detectors.ultralytics import load_base, plan_detector, set_classes
from visionlora.detectors.ultralytics.qat_detector import QatDetector
from visionlora.errors import OutputError, QuantizationError, UsageError
from visionlora.exporting import export, merge
from visionlora.fake_quant import GraphNetwork, fake_quant_spec
from visionlora.int8 import QuantizationRecipe, load_float_model
from visionlora.patching import patch
from visionlora.quantization import calibrate_detector, quantize, sums_saturate
from visionlora.quantization.checks import _optimised_nodes
from visionlora.quantization.float_detector import load_float_detector
from visionlora.runtime import OnnxNetwork
from visionlora.tasks import DETECT
from visionlora.training import train
from visionlora.vision.preprocess import letterbox, read_image
from visionlora.workflows.adapting import adapt

QUICK = {"epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "lr0": 0.01, "images": 6}
INT8 = {**QUICK, "quantize": "int8", "qat_epochs": 2}


@pytest.fixture(scope="module")
def trained(checkpoint: Path, surface: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter that went on from the float one under fake quantization."""
    return train(checkpoint, surface, tmp_path_factory.mktemp("int8") / "run", adapter=adapter, **INT8).path


@pytest.fixture(scope="module")
def files(checkpoint: Path, surface: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with what ships of it: merged.pt, model.onnx, and that in int8."""
    folder = tmp_path_factory.mktemp("shipped")
    merge(checkpoint, trained, folder / "merged.pt")
    export(folder / "merged.pt", folder / "model.onnx")
    quantize(folder / "model.onnx", surface, folder / "model.int8.onnx")
    quantize(folder / "model.onnx", surface, folder / "plain.onnx", target="generic")  # the same numbers in plain QDQ
    return folder


@pytest.fixture(scope="module")
def simulated(checkpoint: Path, trained: Path, files: Path) -> QatDetector:
    """Return the fake-quantized detector with the adapter's weights and ranges, in eval mode."""
    loaded = load_adapter(trained)
    model = load_base(checkpoint).model
    plan = plan_detector(model, loaded.card.settings, whole=set_classes(model, loaded.card.names))
    attach(model, plan)
    load_adapter_tensors(model, plan, loaded.tensors)
    graph = load_float_model(files / "model.onnx", DETECT).graph
    recipe = QuantizationRecipe.from_json(json.dumps(loaded.card.quantization["recipe"]))
    return QatDetector(model, graph, fake_quant_spec(graph, recipe)).eval()


def picture(surface: Path) -> np.ndarray:
    """The network's input for one validation picture."""
    image = load_dataset(surface, splits=("val",)).split("val")[0]
    return letterbox(read_image(image.path), 96)[0][None]


def dequantized(path: Path) -> dict[str, np.ndarray]:
    """What the file's constants stand for, by the name of the weight's levels; a bias as `<convolution>.bias`."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    values = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        for place, name in ((1, node.name), (2, f"{node.name}.bias")):
            if place < len(node.input) and node.input[place] in made:
                levels, scale = (constants[each] for each in made[node.input[place]].input[:2])
                shaped = scale.reshape(-1, *[1] * (levels.ndim - 1))
                values[name] = levels.astype(np.float32) * shaped
    return values


def run_outputs(model: onnx.ModelProto, names: list[str], x: np.ndarray, *, exact: bool) -> list[np.ndarray]:
    """Run an int8 graph; with `exact`, as it is written, node by node in float."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, {"images": x})


def read_behind(model: onnx.ModelProto, layers: list[str]) -> list[str]:
    """Names of the rounded tensors that convolutions give in an int8 file."""
    behind = {name: node for node in model.graph.node for name in node.input}
    convs = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    return [behind[behind[convs[layer].output[0]].output[0]].output[0] for layer in layers]


def test_the_adapter_keeps_its_ranges_and_training_moved_them(trained, adapter, exported, surface) -> None:
    recipe = QuantizationRecipe.from_json(json.dumps(load_adapter(trained).card.quantization["recipe"]))
    assert len(recipe.ranges) > 200 and load_adapter(adapter).card.quantization == {}
    shown = calibration_images(load_dataset(surface, splits=("train",)), QUICK["images"], seed=0)
    calibrated = calibrate_detector(load_float_detector(exported.path), shown)
    before, after = (
        {name: (chosen.scale, chosen.zero_point) for name, chosen in each.items()}
        for each in (calibrated.ranges, recipe.ranges)
    )
    assert after["images"] == before["images"] == (np.float32(1 / 255), 0)  # known, not learned
    assert before.keys() == after.keys() and sum(before[name] != after[name] for name in before) > 150
    assert not (trained.parent / "start.onnx").exists() and (trained.parent / "results.csv").exists()


def test_the_file_has_the_trained_scales_and_zero_points_to_the_last_bit(simulated, files) -> None:
    stored = {
        name: numpy_helper.to_array(t) for t in onnx.load(files / "plain.onnx").graph.initializer for name in [t.name]
    }
    pairs = set()
    for node in onnx.load(files / "plain.onnx").graph.node:
        if node.op_type == "QuantizeLinear":
            pairs.add((float(stored[node.input[1]]), int(stored[node.input[2]])))
    assert pairs == set(simulated.shipped.ranges.values())


def test_the_file_has_the_simulated_weights_and_biases_to_the_last_bit(simulated, files) -> None:
    """From equal float weights, those of the exported graph."""
    network = simulated.shipped
    with torch.no_grad():
        weights, biases = network._rounded(*network.constants(), network.ranges(), torch.float32)
    stored = dequantized(files / "plain.onnx")
    graph = load_float_model(files / "model.onnx", DETECT).graph
    names = {node.input[1]: node.name for node in graph.node if node.op_type == "Conv"}
    for index, name in enumerate(network.weights):
        assert np.array_equal(weights[index].numpy(), stored[names[name]]), name
        if f"{names[name]}.bias" in stored:
            assert np.array_equal(biases[index].numpy(), stored[f"{names[name]}.bias"]), name
    assert len(network.weights) == 87


def test_live_weights_are_the_exported_ones_but_for_the_order_of_float_sums(simulated) -> None:
    """Folding and merging commute in real numbers; in float32 a few weights next to a tie take the other level."""
    network = simulated.shipped
    with torch.no_grad():
        ranges = network.ranges()
        live = network._rounded(*simulated._constants(), ranges, torch.float32)[0]
        exported = network._rounded(*network.constants(), ranges, torch.float32)[0]
    changed = total = 0
    for one, other in zip(live, exported, strict=True):
        step = other.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
        levels = ((one - other) / step).abs()
        assert float(levels.max()) < 1.01
        changed, total = changed + int((levels > 0.5).sum()), total + levels.numel()
    assert changed < 1e-3 * total


def test_early_tensors_are_equal_but_for_ties_and_outputs_nearly_so(simulated, files, surface) -> None:
    model = onnx.load(files / "plain.onnx")
    graph = load_float_model(files / "model.onnx", DETECT).graph
    made = {node.output[0]: node.name for node in graph.node}
    x = picture(surface)
    early = [node.name for node in graph.node if node.op_type == "Conv"][:2]
    wanted = [*early, *(made[name] for name in simulated.shipped._outputs)]
    stored = run_outputs(model, read_behind(model, wanted), x, exact=True)
    tensors = [name for name, layer in made.items() if layer in early]
    spec = simulated.shipped.spec
    with torch.no_grad():
        first = type(simulated.shipped)(graph, tensors, spec)(torch.from_numpy(x))
        last = simulated.shipped(torch.from_numpy(x))
    scales = {name: one.scale for one in spec.ranges for name in one.tensors}
    for name, mine, theirs in zip(tensors, first, stored, strict=False):
        levels = np.abs(mine.numpy() - theirs) / scales[name]  # float sums in another order decide a tie otherwise
        assert levels.max() < 1.01 and (levels < 1e-3).mean() > 0.999, name
    for mine, theirs in zip(last, stored[2:], strict=True):  # 80 layers of such ties later
        assert np.corrcoef(mine.numpy().ravel(), theirs.ravel())[0, 1] > 0.99


@pytest.mark.skipif(sums_saturate(), reason="the integer kernels of this CPU are not exact")
def test_integer_kernels_find_what_training_saw(simulated, files, surface) -> None:
    x = picture(surface)
    with torch.no_grad():
        expected = simulated(torch.from_numpy(x))[0].numpy()
    (got,) = OnnxNetwork(files / "model.int8.onnx")(x)
    assert np.abs(got[:, 4:] - expected[:, 4:]).mean() < 2e-3
    assert np.abs(got[:, :4] - expected[:, :4]).mean() < 1.0  # pixels


def test_quantize_says_whose_ranges_it_took_and_can_choose_anew(files, surface, tmp_path, capsys) -> None:
    assert OnnxNetwork(files / "model.int8.onnx").metadata["settings"]["ranges"] == "adapter"
    assert cli.main(["quantize", *f"--model {files}/model.onnx --data {surface} --out {tmp_path}/it.onnx".split()]) == 0
    assert "run in int8; ranges as the adapter was trained" in capsys.readouterr().out
    quantize(files / "model.onnx", surface, tmp_path / "again.onnx", recalibrate=True)
    assert OnnxNetwork(tmp_path / "again.onnx").metadata["settings"]["ranges"] == "images"
    small, kept = ((path).stat().st_size for path in (files / "model.int8.onnx", files / "model.onnx"))
    assert small < 0.4 * kept  # the recipe stays behind in the float file


def test_trained_ranges_are_for_their_own_integers_alone(files, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match="--recalibrate"):
        quantize(files / "model.onnx", surface, tmp_path / "arm.onnx", target="arm")


def test_merging_carries_the_ranges(trained, files) -> None:
    assert load_base(files / "merged.pt").card["quantization"] == load_adapter(trained).card.quantization


def test_a_graph_of_other_weights_is_refused(checkpoint, adapter, files) -> None:
    model = load_base(checkpoint).model
    loaded = load_adapter(adapter)
    attach(model, plan_detector(model, loaded.card.settings, whole=set_classes(model, loaded.card.names)))
    graph = load_float_model(files / "model.onnx", DETECT).graph
    recipe = QuantizationRecipe.from_json(json.dumps(load_base(files / "merged.pt").card["quantization"]["recipe"]))
    with pytest.raises(QuantizationError, match=r"other weights in \d+ layers"):
        QatDetector(model, graph, fake_quant_spec(graph, recipe))


def test_relu_is_trained_shipped_and_costs_no_operation(checkpoint, surface, adapter, tmp_path) -> None:
    settings = {**INT8, "qat_epochs": 1, "activation": "relu"}
    path = train(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings).path
    assert load_adapter(path).card.settings.activation == "relu"
    assert (tmp_path / "run" / "activation" / "adapter.safetensors").exists()
    merge(checkpoint, path, tmp_path / "merged.pt")
    export(tmp_path / "merged.pt", tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", surface, tmp_path / "int8.onnx")
    kinds = Counter(node.op_type for node in _optimised_nodes(tmp_path / "int8.onnx", signed=False))
    assert kinds["QLinearConv"] >= 0.9 * 87 and "Relu" not in kinds and "QLinearSigmoid" not in kinds


def test_relu_behind_some_layers_leaves_the_others(checkpoint, surface, adapter, tmp_path) -> None:
    settings = {**QUICK, "activation": r"relu:model\.[0-1]\..*", "distill": 0.0}
    path = train(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings).path
    merge(checkpoint, path, tmp_path / "merged.pt")
    acts = [
        type(module.act).__name__
        for module in load_base(tmp_path / "merged.pt").model.modules()
        if hasattr(module, "act")
    ]
    assert acts.count("ReLU") == 2 and acts.count("SiLU") > 70


def test_int4_weights_are_trained_shipped_and_patched_alike(checkpoint, surface, adapter, tmp_path) -> None:
    settings = {**INT8, "quantize": "int4", "qat_epochs": 1}
    path = train(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings).path
    recipe = QuantizationRecipe.from_json(json.dumps(load_adapter(path).card.quantization["recipe"]))
    assert recipe.scheme.weights == "int4"
    merge(checkpoint, path, tmp_path / "merged.pt")
    export(tmp_path / "merged.pt", tmp_path / "model.onnx")
    made = quantize(tmp_path / "model.onnx", surface, tmp_path / "int4.onnx", adapter=path)  # takes what was trained
    assert made.recipe.scheme.weights == "int4" and made.int8_convs == made.convs

    graph = load_float_model(tmp_path / "model.onnx", DETECT).graph
    spec = fake_quant_spec(graph, recipe)
    network = GraphNetwork(graph, [graph.output[0].name], spec)
    for memory in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=memory)
        with torch.no_grad():
            simulated = network._rounded(*network.constants(), network.ranges(), torch.float32)[0]
        stored = int8_weights(tmp_path / "int4.onnx")
        assert 20 < len(spec.int4) < len(stored) == len(simulated)
        for weight, (levels, scale) in zip(simulated, stored, strict=True):
            value = levels.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
            assert np.array_equal(weight.numpy(), value[:, : weight.shape[1]])

    base = export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    patched = patch(base, path, tmp_path / "line.onnx", int8=True).path
    assert onnx.load(patched).graph == onnx.load(made.path).graph
    with pytest.raises(UsageError, match=r"trained for int4 weights, got --weights int8.*--recalibrate"):
        quantize(tmp_path / "model.onnx", surface, tmp_path / "int8.onnx", weights="int8")
    plain = quantize(tmp_path / "model.onnx", surface, tmp_path / "int8.onnx", weights="int8", recalibrate=True)
    assert made.bytes < 0.75 * plain.bytes


@pytest.mark.slow
def test_adapt_leaves_the_int4_file_under_its_own_name(checkpoint, surface, adapter, tmp_path) -> None:
    settings = {**INT8, "quantize": "int4", "qat_epochs": 1, "max_drop": 1.0}
    made = adapt(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings)
    assert (
        made.quantized.path == tmp_path / "run" / "model.int4.onnx" and made.quantized.recipe.scheme.weights == "int4"
    )
    assert [row.label for row in made.report.rows] == ["base", "adapter", "merged", "onnx", "float", "int4"]
    # The budget counts from the float adapter, not from what the training for int4 made of it.
    lost = made.report.rows[-1].difference_to("float").map50_95.difference
    assert made.quantized.report.difference.map50_95.difference == pytest.approx(lost, abs=1e-9)
    assert made.report.reference.label == "float"
    with pytest.raises(OutputError, match=r"adapter\.safetensors|model"):
        adapt(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings)


def int8_weights(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Levels and scale of each convolution's weight in an int8 file, as onnxruntime computes them."""
    model = onnx.load(path)
    made = {node.output[0]: node for node in model.graph.node}
    steps = [made[node.input[1]].input for node in model.graph.node if node.op_type == "Conv"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    computed = [levels for levels, _ in steps if levels not in constants]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in computed)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    blank = np.zeros((1, 3, 96, 96), np.float32)
    constants.update(zip(computed, session.run(computed, {"images": blank}), strict=True))
    return [(constants[levels], constants[scale]) for levels, scale in steps]


@pytest.mark.slow
def test_a_killed_int8_run_resumes_to_the_same_adapter(checkpoint, surface, adapter, tmp_path) -> None:
    settings = {**INT8, "qat_epochs": 4, "adapter": str(adapter)}
    unbroken = train(checkpoint, surface, tmp_path / "unbroken", **settings)
    out = tmp_path / "killed"
    arguments = f"{str(checkpoint)!r}, {str(surface)!r}, {str(out)!r}, **{settings!r}"
    code = f"from visionlora.training.training import train; train({arguments})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "resume.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    resumed = train(checkpoint, surface, out, **settings, resume=True)
    first, second = load_adapter(unbroken.path), load_adapter(resumed.path)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert first.card.quantization == second.card.quantization
