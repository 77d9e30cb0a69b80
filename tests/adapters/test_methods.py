"""Every method by its name: the weight that its formula says, in training, merged and patched."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.utils import LOGGER

import visionlora as vl
from tests.patching.conftest import exported_merged, graph_bytes
from visionlora.adapters import AdapterSettings, load_arrays
from visionlora.adapters.methods import IA3, METHODS, OFT, BitFit, DoRA, LoHa, LoKr, LoRA
from visionlora.adapters.torch import (
    BatchedWeights,
    adapter_tensors,
    attach,
    load_adapter_tensors,
    merge,
    plan_adapter,
)
from visionlora.errors import UsageError
from visionlora.vision.preprocess import read_image

ALL = (
    LoRA(rank=2),
    DoRA(rank=2),
    DoRA(rank=2, full=60),
    LoHa(rank=2),
    LoKr(rank=2),
    OFT(block_size=4),
    IA3(),
    BitFit(),
)
NEW = ("dora", "loha", "lokr", "oft", "ia3", "bitfit")
SHAPES = ((6, 4, 3, 3), (12, 8, 1, 1), (8, 1, 3, 3), (5, 7))
QUICK = {"epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "lr0": 0.01, "quiet": True}


def by_formula(method, weight: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Return the adapted weight, written down once more in float64 and in matrices."""
    matrix = weight.astype(np.float64).reshape(len(weight), -1)
    own = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    if isinstance(method, IA3):
        return np.diag(1 + own["ia3_delta"]) @ matrix
    if isinstance(method, BitFit):
        return matrix
    if isinstance(method, OFT):
        return matrix @ rotation(own["oft_R"])
    if "delta" in own:
        changed = matrix + own["delta"].reshape(matrix.shape)
    elif isinstance(method, LoHa):
        scale = method.alpha / math.sqrt(len(own["hada_w1_b"]))
        first, second = own["hada_w1_a"] @ own["hada_w1_b"], own["hada_w2_a"] @ own["hada_w2_b"]
        return matrix + scale * first * second
    elif isinstance(method, LoKr):
        scale = method.alpha / math.sqrt(len(own["lokr_w2_b"]))
        return matrix + scale * np.kron(own["lokr_w1"], own["lokr_w2_a"] @ own["lokr_w2_b"])
    else:
        right = own["lora_A"].reshape(len(own["lora_A"]), -1)
        scale = method.alpha / math.sqrt(len(right))
        changed = matrix + scale * own["lora_B"].reshape(len(weight), -1) @ right
    if isinstance(method, DoRA):
        norms = [np.linalg.norm(each, axis=1) for each in (matrix, changed)]
        changed = changed * ((1 + own["magnitude_delta"]) * norms[0] / norms[1])[:, None]
    return changed


def rotation(above: np.ndarray) -> np.ndarray:
    """Return the block-diagonal R of OFT, one entry of Q after the other."""
    size = next(side for side in range(2, 99) if side * (side - 1) // 2 == above.shape[1])
    skew = np.zeros((len(above) * size, len(above) * size))
    for block, numbers in enumerate(above):
        pairs = ((row, column) for row in range(size) for column in range(row + 1, size))
        for (row, column), number in zip(pairs, numbers, strict=True):
            skew[block * size + row, block * size + column] = number
    skew = skew - skew.T
    return (np.eye(len(skew)) + skew) @ np.linalg.inv(np.eye(len(skew)) - skew)


def drawn(method, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a weight and tensors of a method for it."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=shape).astype(np.float32)
    tensors = {name: generator.normal(0, 0.3, size).astype(np.float32) for name, size in method.shapes(shape).items()}
    return weight, tensors


def without_kernel(tensor: np.ndarray) -> torch.Tensor:
    shape = tensor.shape[:2] if all(side == 1 for side in tensor.shape[2:]) else tensor.shape
    return torch.from_numpy(tensor).double().reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ALL, ids=repr)
def test_merging_and_training_compute_what_the_formula_says(method, shape) -> None:
    weight, tensors = drawn(method, shape)
    expected = by_formula(method, weight, tensors).reshape(shape)
    np.testing.assert_allclose(method.merged(weight, tensors), expected, rtol=1e-5, atol=1e-6)
    own = {name: without_kernel(tensor) for name, tensor in tensors.items()}
    for layout in (torch.contiguous_format, torch.channels_last) if len(shape) == 4 else (torch.contiguous_format,):
        frozen = torch.from_numpy(weight).double().contiguous(memory_format=layout)
        own = {
            name: each.contiguous(memory_format=layout) if each.dim() == 4 else each for name, each in own.items()
        }  # as a model lays them out
        adapted = method.adapted(frozen, own, None)
        assert adapted.is_contiguous(memory_format=layout)
        np.testing.assert_allclose(adapted.numpy(), expected, rtol=1e-6, atol=1e-7)
        gain = torch.linspace(-2, 2, shape[0], dtype=torch.float64).unsqueeze(1) + 0.1
        by_channel = gain.reshape(-1, *(1 for _ in shape[1:]))
        folded = (frozen * by_channel).contiguous(memory_format=layout)
        got = method.adapted(folded, own, gain)
        np.testing.assert_allclose(got.numpy(), (adapted * by_channel).numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_gradients_are_those_of_finite_differences(method) -> None:
    weight, tensors = drawn(method, (4, 4, 3, 3))
    names = sorted(tensors)
    frozen = torch.from_numpy(weight).double()
    parameters = [without_kernel(tensors[name]).requires_grad_() for name in names]

    def adapted(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        if isinstance(method, DoRA):  # the norm of V counts as a constant
            return direction.adapted(frozen, given, None) * (ratio * (1 + given["magnitude_delta"])).reshape(
                -1, 1, 1, 1
            )
        return method.adapted(frozen, given, None)

    direction, ratio = LoRA(rank=2), torch.ones(4)
    if isinstance(method, DoRA):
        direction = LoRA(method.rank, method.alpha, method.full)
        turned = direction.adapted(frozen, {name: without_kernel(tensors[name]) for name in names}, None)
        ratio = frozen.flatten(1).norm(dim=1) / turned.flatten(1).norm(dim=1)
    if not parameters:
        assert adapted() is frozen
        return
    weights = torch.randn(4, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((adapted(*parameters) * weights).sum(), parameters)
    got = torch.autograd.grad(
        (method.adapted(frozen, dict(zip(names, parameters, strict=True)), None) * weights).sum(), parameters
    )
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(adapted, parameters)


def test_a_silent_channel_does_not_break_dora() -> None:
    method = DoRA(rank=2)
    weight, tensors = drawn(method, (6, 4, 3, 3))
    weight[2] = 0
    tensors["lora_B"][3] = 0
    merged = method.merged(weight, tensors)
    assert np.isfinite(merged).all() and merged[2].any()
    own = {name: without_kernel(tensor) for name, tensor in tensors.items()}
    adapted = method.adapted(torch.from_numpy(weight).double(), own, None)
    np.testing.assert_allclose(merged, adapted.numpy(), rtol=1e-5, atol=1e-6)
    tensors["lora_B"][:] = 0
    silent = method.merged(weight, tensors)[2]
    assert not silent.any()


def test_oft_keeps_lengths_and_angles_however_far_it_turns() -> None:
    weight, tensors = drawn(OFT(block_size=4), (6, 4, 3, 3))
    for strength in (1, 100):
        turned = OFT(block_size=4).merged(weight, {name: strength * tensor for name, tensor in tensors.items()})
        before, after = (each.reshape(6, -1) @ each.reshape(6, -1).T for each in (weight, turned))
        np.testing.assert_allclose(after, before, atol=1e-4)
        assert not np.allclose(turned, weight, atol=0.1)


def test_blocks_of_oft_divide_the_inputs_and_one_input_has_none() -> None:
    shapes = {
        shape: OFT().shapes(shape) for shape in ((8, 64, 3, 3), (8, 16, 3, 3), (8, 1, 3, 3), (8, 37), (8, 1, 1, 1))
    }
    assert [each["oft_R"] for each in list(shapes.values())[:4]] == [(18, 496), (6, 276), (1, 36), (1, 666)]
    assert shapes[8, 1, 1, 1] == {}
    weight = np.ones((8, 1, 1, 1), np.float32)
    assert OFT().merged(weight, {}) is weight and not OFT().start(torch.from_numpy(weight))


@pytest.mark.parametrize("normalization", ["frozen", "live"])
@pytest.mark.parametrize("method", ALL, ids=repr)
def test_an_adapter_is_attached_trained_merged_and_gone_on_with(method, normalization) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(144, 2),
    )
    model(torch.randn(8, 3, 8, 8))
    model.eval()
    plan = plan_adapter(model, AdapterSettings(method, normalization=normalization), norms={"0": "1"})
    x, trained = torch.randn(2, 3, 8, 8), copy.deepcopy(model)
    attach(trained, plan)
    torch.testing.assert_close(trained(x), model(x), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for _ in range(2):  # in the first step all but one factor have no gradient
        optimizer.zero_grad()
        trained.train()(x).square().sum().backward()
        optimizer.step()
    trained.eval()
    tensors = adapter_tensors(trained, plan)
    assert all(tensor.any() for name, tensor in tensors.items() if not name.endswith("gain_delta"))
    assert not torch.allclose(trained(x), model(x), atol=1e-3)
    merged, resumed = copy.deepcopy(model), copy.deepcopy(model)
    merge(merged, plan, tensors)
    attach(resumed, plan, tensors)
    load_adapter_tensors(resumed, plan, tensors)
    for other in (merged, resumed):
        torch.testing.assert_close(other(x), trained(x), atol=1e-5, rtol=1e-5)
    with BatchedWeights(resumed).computed():
        torch.testing.assert_close(resumed(x), trained(x), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module", params=NEW)
def trained(request, checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter of one method, trained under the rounding of int8 too."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    int8 = {"quantize": "int8", "qat_epochs": 1, "images": 6}
    return vl.train(checkpoint, surface, out, method=request.param, recipe="near", **QUICK, **int8).path


def test_a_method_goes_from_its_name_to_the_patched_int8_file(trained, checkpoint, surface, tmp_path) -> None:
    adapter = load_arrays(trained)
    settings = adapter.card.settings
    assert METHODS[settings.method.name] is type(settings.method)
    changed = [name for name, tensor in adapter.tensors.items() if tensor.any()]
    assert all(any(name.endswith(f".{short}.weight") for name in changed) for short in settings.method.tensors[-1:])
    base = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    patched = vl.patch(base, trained, tmp_path / "line.onnx").path
    exported = exported_merged(checkpoint, trained, tmp_path)
    assert graph_bytes(patched) == graph_bytes(exported)
    shipped = vl.quantize(exported, surface, tmp_path / "int8.onnx").path
    assert graph_bytes(vl.patch(base, trained, tmp_path / "line8.onnx", int8=True).path) == graph_bytes(shipped)
    bank = vl.AdapterBank(base)
    bank.add("line", trained)
    picture = read_image(next((surface.parent / "images" / "val").iterdir()))
    got, expected = (each.predict(picture, confidence=0.001) for each in (bank.use("line"), vl.Detector(patched)))
    assert len(expected) and got.boxes_xyxy.tobytes() == expected.boxes_xyxy.tobytes()
    bundled = vl.open_bundle(vl.bundle(patched, tmp_path / "line").path)
    assert bundled.detector().predict(picture, confidence=0.001).scores.tobytes() == expected.scores.tobytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_a_graph_on_a_gpu(method, checkpoint, surface, tmp_path, monkeypatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", lambda message, *rest: warned.append(message))
    vl.train(checkpoint, surface, tmp_path / "run", method=method, recipe="near", **{**QUICK, "device": "0"})
    if method != "oft":  # whose solver is not captured
        assert not [message for message in warned if "no CUDA graph" in message]


def test_a_method_is_resumed_and_of_part_of_the_layers(checkpoint, surface, tmp_path) -> None:
    """Of biases alone nothing but their names says which layers they are of."""
    for name in ("bitfit", "loha"):
        out = tmp_path / name
        part = {**QUICK, "targets": "neck", "recipe": "near"}
        vl.train(checkpoint, surface, out, method=name, **part)
        longer = {**part, "epochs": 2, "resume": True}
        path = vl.train(checkpoint, surface, out, method=name, **longer).path
        with pytest.raises(UsageError, match=f"--method: was {name}, now ia3"):
            vl.train(checkpoint, surface, out, method="ia3", **longer)
        base = vl.export(checkpoint, tmp_path / f"{name}.onnx", imgsz=96).path
        patched = vl.patch(base, path, tmp_path / f"{name}-line.onnx").path
        assert graph_bytes(patched) == graph_bytes(exported_merged(checkpoint, path, tmp_path / name))


@pytest.mark.parametrize("method", [DoRA, LoHa, LoKr])
def test_settings_out_of_range_are_refused(method) -> None:
    for settings in ({"rank": 0}, {"rank": True}, {"alpha": -1.0}, {"alpha": math.inf}):
        with pytest.raises(UsageError, match="expected"):
            method(**settings)


def test_blocks_out_of_range_are_refused() -> None:
    for size in (1, 0, -4, True, 2.0, 257):
        with pytest.raises(UsageError, match="--block-size: expected a whole number from 2 to 256"):
            OFT(block_size=size)


def test_settings_that_a_method_does_not_have_are_refused(checkpoint, surface, tmp_path) -> None:
    for name in ("ia3", "bitfit"):
        with pytest.raises(UsageError, match=rf"--rank: the method {name} has no such setting, and no other; drop it"):
            vl.train(checkpoint, surface, tmp_path / "run", method=name, rank=4)
    with pytest.raises(UsageError, match="--block-size: the method lora has no such setting, only rank, alpha, full"):
        vl.train(checkpoint, surface, tmp_path / "run", block_size=8)
    with pytest.raises(UsageError, match="--alpha: the method oft has no such setting, only block-size; drop it"):
        vl.train(checkpoint, surface, tmp_path / "run", method="oft", alpha=2.0)
    with pytest.raises(UsageError, match="--budget: the method loha has no layers at full rank"):
        vl.train(checkpoint, surface, tmp_path / "run", method="loha", budget="20%")
