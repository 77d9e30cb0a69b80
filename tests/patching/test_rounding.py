"""Patching an adapter of a rounded base: the file that the workstation makes, or a reason why not."""

from __future__ import annotations

import pytest
import torch

from tests.patching.conftest import IMAGE_SIZE, exported_merged, graph_bytes, random_adapter
from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.detectors.ultralytics import load_base, pack_checkpoint, plan_detector
from visionlora.errors import AdapterError
from visionlora.exporting import export, merge
from visionlora.patching import patch
from visionlora.quantization import quantize


@pytest.mark.parametrize("precision", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_patch_gives_the_file_of_the_workstation_in_float_and_int8(
    precision, base_onnx, checkpoint, surface, tmp_path
) -> None:
    settings = AdapterSettings(LoRA(3), base_precision=precision)
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors", settings=settings)
    exported = exported_merged(checkpoint, adapter, tmp_path)
    made = patch(base_onnx, adapter, tmp_path / "line.onnx")
    assert graph_bytes(made.path) == graph_bytes(exported)
    plain = random_adapter(checkpoint, tmp_path / "plain.safetensors", settings=AdapterSettings(LoRA(3)))
    assert graph_bytes(patch(base_onnx, plain, tmp_path / "plain.onnx").path) != graph_bytes(exported)
    int8 = quantize(exported, surface, tmp_path / "model.int8.onnx", images=4, adapter=adapter).path
    assert graph_bytes(patch(base_onnx, adapter, tmp_path / "int8.onnx", int8=True).path) == graph_bytes(int8)


def test_layers_that_a_patch_does_not_round_are_refused(base_onnx, checkpoint, tmp_path) -> None:
    settings = AdapterSettings(LoRA(2), targets="head", base_precision="nf4")
    adapter = random_adapter(checkpoint, tmp_path / "head.safetensors", settings=settings)
    with pytest.raises(AdapterError, match=r"--base-precision nf4 and --targets head: a patch does not round .* merge"):
        patch(base_onnx, adapter, tmp_path / "line.onnx")
    assert merge(checkpoint, adapter, tmp_path / "merged.pt").box_error < 1e-3


def test_channels_that_a_norm_silences_are_refused(checkpoint, tmp_path) -> None:
    settings, base, silenced = AdapterSettings(LoRA(2), base_precision="nf4"), load_base(checkpoint), tmp_path / "b.pt"
    plan = plan_detector(base.model, settings, whole=())
    layer = next(layer.name for layer in plan.rounded if layer.name in plan.norms)
    with torch.no_grad():
        base.model.get_submodule(plan.norms[layer]).weight[3] = 0
    silenced.write_bytes(pack_checkpoint(base, image_size=IMAGE_SIZE, card={"kind": "merged"}))
    exported = export(silenced, tmp_path / "base.onnx", imgsz=IMAGE_SIZE).path
    adapter = random_adapter(silenced, tmp_path / "a.safetensors", settings=settings)
    with pytest.raises(AdapterError, match=rf"1 layers of .*base.onnx, such as {layer}, have channels that"):
        patch(exported, adapter, tmp_path / "line.onnx")
