"""Methods that add modules: what their formulas say, the base at the start, and one graph to export at the end."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import visionlora as vl
from tests.detectors.ultralytics.test_detectors import output, random_detector
from tests.patching.conftest import random_adapter
from visionlora.adapters import AdapterSettings, load_arrays
from visionlora.adapters.methods import (
    Addition,
    AttentionSite,
    BlockSite,
    ConvAdapter,
    FeaturePrompt,
    InputSite,
    LayerSite,
    Mona,
    Prefix,
    Prompt,
)
from visionlora.adapters.torch import adapter_tensors, attach, merge, plan_adapter, settle
from visionlora.adapters.torch.added import Added
from visionlora.detectors.ultralytics import RawDetector, load_base, plan_detector, set_classes
from visionlora.errors import AdapterError, ModelError, UsageError
from visionlora.models import open_network

QUICK = {"epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "lr0": 0.01, "quiet": True}
SERIAL = ConvAdapter(rank=4, form="serial")
OTHERS = ("values.weight", "norm.weight")
ON_FAMILIES = (
    ("yolov9t", Prompt(imgsz=64)),  # branches that Ultralytics would join into one convolution
    ("yolov10n", SERIAL),
    ("yolov8n", Mona()),
    ("yolo11n", Prefix()),
    ("yolo12n", Prefix()),
    ("yolo26n", Prefix()),
    ("yolov8n", ConvAdapter()),
    ("yolov8n", FeaturePrompt(imgsz=64)),
)


def drawn(method: Addition, site) -> Added:
    """Return what a method adds at a site, with random numbers in it, in float64."""
    torch.manual_seed(0)
    added = Added(method, site)
    for parameter in added.parameters():
        nn.init.normal_(parameter, std=0.5)
    return added.double().requires_grad_(False)


def test_conv_adapter_is_a_scaled_bottleneck() -> None:
    site = LayerSite("conv", 12, 5, (3, 3), (2, 2), (1, 1), (1, 1))
    added, x = drawn(ConvAdapter(rank=4), site), torch.randn(2, 12, 8, 8, dtype=torch.float64)
    own = added.tensors()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == {
        "down.weight": (4, 12, 1, 1),
        "filter.weight": (4, 1, 3, 3),
        "filter.bias": (4,),
        "up.weight": (5, 4, 1, 1),
        "up.scale": (5,),
    }
    kernels = own["filter.weight"] * own["down.weight"]  # (4, 12, 3, 3): one after the other is one convolution
    down = functional.conv2d(x, kernels, stride=2, padding=1)
    inner = (down + own["filter.bias"].view(-1, 1, 1)).clamp(min=0)
    expected = torch.einsum("oi,nihw->nohw", own["up.weight"][:, :, 0, 0], inner) * own["up.scale"].view(-1, 1, 1)
    torch.testing.assert_close(added(x), expected)


def test_a_prefix_is_attention_to_learned_keys() -> None:
    site = AttentionSite("attn", heads=2, keys=3, values=5, source="", sink="")
    added, given = drawn(Prefix(tokens=4), site), torch.randn(1, 2 * 11, 2, 3, dtype=torch.float64)
    own, queries = added.tensors(), given.view(2, 11, 6)[:, :3].transpose(1, 2)  # (heads, pixels, keys)
    keys = own["keys.weight"].view(2, 4, 3) * math.sqrt(3)
    values = own["values.weight"].view(2, 5, 4).transpose(1, 2)
    found = functional.scaled_dot_product_attention(queries, keys, values)  # (heads, pixels, values)
    expected = found.transpose(1, 2).reshape(1, 10, 2, 3) * own["values.scale"].view(-1, 1, 1)
    torch.testing.assert_close(added(given), expected)


def test_mona_filters_a_normed_map() -> None:
    added, y = drawn(Mona(rank=3), BlockSite("block", 6, 8)), torch.randn(2, 6, 9, 9, dtype=torch.float64)
    own = added.tensors()

    def pointwise(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = own[f"{name}.weight"][:, :, 0, 0], own[f"{name}.bias"]
        return torch.einsum("oi,nihw->nohw", weight, x) + bias.view(-1, 1, 1)

    unit = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    by_channel = {name: tensor.view(-1, 1, 1) for name, tensor in own.items() if tensor.dim() == 1}
    normed = (unit * by_channel["norm.weight"] + by_channel["norm.bias"]) * by_channel["normed"]
    inner = pointwise("down", normed + y * by_channel["plain"])
    filtered = [
        functional.conv2d(inner, own[f"filter{side}.weight"], own[f"filter{side}.bias"], padding=side // 2, groups=3)
        for side in (3, 5, 7)
    ]
    z = inner + torch.stack(filtered).mean(0)
    z = z + pointwise("mix", z)
    torch.testing.assert_close(added(y), pointwise("up", z * (1 + torch.erf(z / math.sqrt(2))) / 2))


def test_a_prompt_is_a_frame() -> None:
    added = drawn(Prompt(border=2, imgsz=8), InputSite("first"))
    frame = added(torch.zeros(1, 3, 8, 8))
    assert frame.shape == (3, 8, 8)
    assert not frame[:, 2:-2, 2:-2].any()
    assert torch.count_nonzero(frame) == 3 * (64 - 16) == sum(tensor.numel() for tensor in added.tensors().values())
    with pytest.raises(UsageError, match=r"frame at first is 8 x 8, for images of 8 px, and got 9 x 9; use 8"):
        added(torch.zeros(1, 3, 9, 9))


@pytest.mark.parametrize(("family", "method"), ON_FAMILIES, ids=lambda each: getattr(each, "name", each))
def test_a_detector_begins_as_its_base_learns_and_is_finished(family, method) -> None:
    model = random_detector(family)
    targets, noise = ("to:6", 0.5) if isinstance(method, FeaturePrompt) else ("all", 0.05)
    plan = plan_detector(model, AdapterSettings(method, targets), whole=set_classes(model, ["dog", "rhino"]))
    before, adapted = output(model), copy.deepcopy(model)
    attach(adapted, plan)
    torch.testing.assert_close(output(adapted), before, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not name.endswith("bias"):  # of a bottleneck it may silence ReLU on these few pixels
                parameter.add_(torch.randn_like(parameter) * noise)  # what is zero hides the gradients of the rest
    prediction = adapted.train()(torch.rand(2, 3, 64, 64))
    heads = prediction.values() if "one2many" in prediction else [prediction]
    sum(head[key].square().mean() for head in heads for key in ("boxes", "scores")).backward()
    missing = [name for name, each in adapted.named_parameters() if each.grad is None or not each.grad.any()]
    assert missing == []

    changed, tensors = output(adapted.eval()), adapter_tensors(adapted, plan)
    assert not torch.allclose(changed, before, atol=1e-2)
    attach(model, plan, tensors)
    settle(model)
    assert not [name for name, each in model.named_parameters() if each.requires_grad]
    torch.testing.assert_close(output(model), changed, atol=1e-3, rtol=1e-4)
    model.end2end = False  # the head that ships
    torch.testing.assert_close(RawDetector(model)(torch.ones(1, 3, 64, 64))[0], model(torch.ones(1, 3, 64, 64))[0])


@pytest.mark.parametrize("method", [ConvAdapter(rank=2), replace(SERIAL, rank=2)], ids=lambda each: each.form)
def test_a_bottleneck_and_a_norm_trained_together_are_folded(method) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 4, 1))
    model(torch.randn(8, 3, 8, 8))
    model.eval()
    settings = AdapterSettings(method, normalization="live")
    sites = [LayerSite("0", 3, 6, (3, 3), (1, 1), (0, 0), (1, 1)), LayerSite("3", 6, 4, (1, 1), (1, 1), (0, 0), (1, 1))]
    plan = plan_adapter(model, settings, norms={"0": "1"}, sites=sites)
    trained, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    attach(trained, plan)
    torch.testing.assert_close(trained(x), model(x))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    tensors = adapter_tensors(trained, plan)
    attach(model, plan, tensors)
    torch.testing.assert_close(model(x), trained(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "precision"), [(Mona(rank=4), "float32"), (Prefix(tokens=3), "nf4")], ids=repr)
def test_an_addition_is_exported_and_quantized_with_its_base(method, precision, checkpoint, surface, tmp_path) -> None:
    settings = AdapterSettings(method, targets="to:10", base_precision=precision)
    path = random_adapter(checkpoint, tmp_path / "a.safetensors", settings=settings)
    exported = vl.export(checkpoint, tmp_path / "model.onnx", adapter=path)
    assert exported.image_size == 96 and exported.names == ("scratch", "pit")
    pictures = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    beside = open_network(f"{checkpoint}+{path}")
    np.testing.assert_allclose(open_network(exported.path)(pictures), beside(pictures), atol=0.05)
    assert np.abs(beside(pictures)[0][:, :4] - beside.adapter_off()(pictures)[0][:, :4]).max() > 0.01
    added = [name for name in load_arrays(path).tensors if f".{method.name.replace('-', '_')}." in name]
    # What reads a softmax, as the values of a prefix do, stays float.
    convolutions = [name for name in added if name.endswith(".weight") and not name.endswith(OTHERS)]
    quantized = vl.quantize(exported.path, surface, tmp_path / "int8.onnx", images=4, target="arm")
    assert quantized.convs == 87 + len(convolutions)
    with pytest.raises(AdapterError, match=r"adds layers; there is no weight .* visionlora export --model BASE"):
        vl.merge(checkpoint, path, tmp_path / "merged.pt")
    assert not (tmp_path / "merged.pt").exists()


def test_adapt_goes_through_all_stages_but_merging(checkpoint, surface, tmp_path) -> None:
    out = tmp_path / "run"
    settings = {**QUICK, "rank": 2, "recipe": "near", "targets": r"model\.22\..*", "quantize": "int8", "qat_epochs": 1}
    adapted = vl.adapt(checkpoint, surface, out, method="conv-adapter", images=4, **settings)
    assert adapted.merged is None and not (out / "merged.pt").exists()
    assert [row.label for row in adapted.report.rows] == ["base", "adapter", "onnx", "float", "int8"]
    before, after = (
        load_arrays(file).tensors for file in (out / "float" / "adapter.safetensors", adapted.adapter.path)
    )
    moved = {name.rpartition("conv_adapter.")[2] for name in after if not np.array_equal(before[name], after[name])}
    assert moved >= {"down.weight", "down.bias", "filter.weight", "filter.bias", "up.weight", "up.scale"}


def test_an_addition_is_neither_patched_nor_summed(checkpoint, surface, tmp_path) -> None:
    path = random_adapter(checkpoint, tmp_path / "a.safetensors", settings=AdapterSettings(Prefix()))
    base = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    with pytest.raises(AdapterError, match="the method prefix adds layers; there is no weight"):
        vl.patch(base, path, tmp_path / "line.onnx")
    exported = vl.export(checkpoint, tmp_path / "model.onnx", adapter=path).path
    with pytest.raises(ModelError, match="expected a base that adapters can be patched into"):
        vl.patch(exported, path, tmp_path / "line.onnx")
    with pytest.raises(UsageError, match="adds layers, which cannot be patched; drop --adapter"):
        vl.quantize(exported, surface, tmp_path / "int8.onnx", images=4, adapter=path)
    with pytest.raises(
        AdapterError, match="its method, prefix, adds modules; what these compute is no change of a weight"
    ):
        vl.scale_adapter(path, tmp_path / "half.safetensors", factor=0.5)
    with pytest.raises(UsageError, match="expected an adapter of the method lora or dora, got prefix"):
        vl.export_adapter(checkpoint, path, tmp_path / "peft")
    assert not [*tmp_path.glob("line*"), *tmp_path.glob("int8*"), *tmp_path.glob("half*"), *tmp_path.glob("peft*")]


def test_a_prompt_is_trained_resumed_and_exported_at_its_own_size(checkpoint, surface, tmp_path) -> None:
    run = {**QUICK, "method": "prompt", "recipe": "near"}
    vl.train(checkpoint, surface, tmp_path / "run", **run)
    path = vl.train(checkpoint, surface, tmp_path / "run", **{**run, "epochs": 2}, resume=True).path
    adapter = load_arrays(path)
    assert adapter.card.settings.method == Prompt(imgsz=96) and adapter.tensors["model.0.prompt.rows"].any()
    exported = vl.export(checkpoint, tmp_path / "frame.onnx", adapter=path)
    assert exported.image_size == 96 and exported.box_error < 0.05
    for refused in (
        lambda: vl.train(checkpoint, surface, tmp_path / "run", **{**run, "epochs": 2, "border": 8}, resume=True),
        lambda: vl.export(checkpoint, tmp_path / "model.onnx", adapter=path, imgsz=128),
        lambda: vl.evaluate([f"{checkpoint}+{path}"], surface, imgsz=128),
        lambda: vl.train(checkpoint, surface, tmp_path / "new", **run, hyperparameters={"multi_scale": 0.5}),
    ):
        with pytest.raises(
            UsageError, match=r"--border: was 16, now 8|for images of 96 px, .* use 96|prompt is of one image size"
        ):
            refused()
    assert not (tmp_path / "model.onnx").exists()


def test_what_cannot_be_is_refused_with_the_fact(checkpoint, surface, tmp_path) -> None:
    for method in ("mona", "prompt", "feature-prompt"):
        with pytest.raises(UsageError, match=rf"--quantize: trains the convolutions .*, and {method} learns numbers"):
            vl.train(checkpoint, surface, tmp_path / "run", method=method, quantize="int8", **QUICK)
    plain = random_detector("yolov8n")
    with pytest.raises(UsageError, match=r"--method prefix: expected an attention .* got a base that has none"):
        plan_detector(plain, AdapterSettings(Prefix()), whole=())
    with pytest.raises(UsageError, match=r"--method prefix: expected an attention .* got targets without one"):
        plan_detector(load_base(checkpoint).model, AdapterSettings(Prefix(), targets="head"), whole=())
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="--method conv-adapter: expected a convolution"):
        plan_adapter(model, AdapterSettings(ConvAdapter()))
    for made in (
        lambda: ConvAdapter(rank=0),
        lambda: ConvAdapter(form="both"),
        lambda: Mona(rank=True),
        lambda: Prefix(tokens=0),
        lambda: Prompt(border=0),
        lambda: Prompt(border=48, imgsz=96),
    ):
        with pytest.raises(UsageError, match=r"--(rank|form|tokens|border): expected"):
            made()
    with pytest.raises(UsageError, match=r"less than half of the 2 cells that model.8 has at --imgsz 64, got 1"):
        plan_detector(plain, AdapterSettings(FeaturePrompt(imgsz=64)), whole=())
    with pytest.raises(UsageError, match=r"--alpha: the method mona has no such setting, only rank; drop it"):
        vl.train(checkpoint, surface, tmp_path / "run", method="mona", alpha=2.0)


def test_tensors_of_another_shape_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3))
    sites = [LayerSite("0", 3, 6, (3, 3), (1, 1), (0, 0), (1, 1))]
    plan = plan_adapter(model, AdapterSettings(ConvAdapter()), sites=sites)
    trained = copy.deepcopy(model)
    attach(trained, plan)
    tensors = adapter_tensors(trained, plan)
    tensors["0.conv_adapter.up.scale"] = torch.ones(7)
    del tensors["0.conv_adapter.filter.bias"]
    with pytest.raises(AdapterError, match=r"filter.bias: missing; .*up.scale: expected shape \(6,\), got \(7,\)"):
        attach(model, plan, tensors)
    with pytest.raises(AdapterError, match="there is no weight"):
        merge(model, plan, tensors)
