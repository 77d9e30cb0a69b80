"""Patching: the graph that the workstation makes, to the bit; nothing is replaced by what does not work."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.detectors.ultralytics.test_detectors import random_detector
from tests.patching.conftest import IMAGE_SIZE, exported_merged, graph_bytes, random_adapter
from visionlora.adapters import AdapterSettings, ArrayAdapter, load_arrays, read_folded_base, save_arrays
from visionlora.adapters.folded_base import ENTRY
from visionlora.adapters.methods import LoRA
from visionlora.detectors.checkpoints import fingerprint
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics import pack_checkpoint
from visionlora.errors import AdapterError, ModelError, OutputError, UsageError, VisionLoraError
from visionlora.exporting import export, merge
from visionlora.formats.seal import is_sealed, unseal
from visionlora.patching import AdapterBank, patch, rollback
from visionlora.patching.patching import previous_of
from visionlora.runtime import Detector
from visionlora.tasks import DETECT
from visionlora.workflows.inspecting import inspect


def test_trained_adapter_gives_the_exported_graph_to_the_bit(base_onnx, adapter, exported, tmp_path) -> None:
    made = patch(base_onnx, adapter, tmp_path / "line.onnx")
    assert graph_bytes(made.path) == graph_bytes(exported.path) and is_sealed(made.path) and is_sealed(exported.path)
    card = inspect(made.path).card
    assert made.names == exported.names == tuple(card["names"]) and card["settings"]["patched"]
    assert card["settings"]["data_sha256"] == inspect(exported.path).card["settings"]["data_sha256"]
    assert card["parents"]["adapter"] == inspect(exported.path).card["parents"]["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "settings"),
    [
        pytest.param(None, AdapterSettings(LoRA(rank=3, alpha=1.7)), id="the base's own classes"),
        pytest.param(("a",), AdapterSettings(LoRA(rank=2, full=5000), normalization="live"), id="live and full"),
        pytest.param(("a",), AdapterSettings(LoRA(rank=2), targets="head", train_bias=False), id="head without biases"),
        pytest.param(tuple(map(str, range(20))), AdapterSettings(targets=r"model\.(2|23)\..*"), id="more classes"),
    ],
)
def test_any_adapter_gives_the_exported_graph(names, settings, checkpoint, base_onnx, tmp_path) -> None:
    names = names or tuple(inspect(base_onnx).card["names"])
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors", names=names, settings=settings)
    made = patch(base_onnx, adapter, tmp_path / "line.onnx")
    assert graph_bytes(made.path) == graph_bytes(exported_merged(checkpoint, adapter, tmp_path))


@pytest.mark.slow
def test_class_count_of_the_box_channels_is_no_trap(checkpoint, base_onnx, tmp_path) -> None:
    """With 64 classes the exporter gives boxes and scores one shape constant, so a base of 64 shares it."""
    sixty_four = random_adapter(checkpoint, tmp_path / "64.safetensors", names=tuple(map(str, range(64))))
    base = exported_merged(checkpoint, sixty_four, tmp_path)
    on_it = random_adapter(tmp_path / "merged.pt", tmp_path / "two.safetensors", names=("a", "b"))
    made = patch(base, on_it, tmp_path / "line.onnx")
    (tmp_path / "again").mkdir()
    expected = exported_merged(tmp_path / "merged.pt", on_it, tmp_path / "again")
    assert constants(made.path) >= constants(expected)
    np.testing.assert_array_equal(run(made.path), run(expected))


def constants(path: Path) -> set[bytes]:
    return {numpy_helper.to_array(tensor).tobytes() for tensor in onnx.load(path).graph.initializer}


def run(path: Path) -> np.ndarray:
    from visionlora.runtime import OnnxNetwork

    picture = np.random.default_rng(1).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    return OnnxNetwork(path)(picture)[0]


def write_random(family: str, path: Path) -> Path:
    model = random_detector(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # equal biases, as a new head has, become one constant in the graph
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return write_model(model, path)


def write_model(model, path: Path) -> Path:
    base = Base(
        model, path, tuple(model.names.values()), IMAGE_SIZE, fingerprint(model), 32, "ultralytics", task=DETECT
    )
    path.write_bytes(pack_checkpoint(base, image_size=IMAGE_SIZE, card={"kind": "merged"}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("family", ["yolo12n", "yolo26n"])
def test_families_in_full_precision_are_patched_to_the_bit(family, tmp_path) -> None:
    checkpoint = write_random(family, tmp_path / "base.pt")
    base = export(checkpoint, tmp_path / "base.onnx").path
    folded = read_folded_base({e.key: e.value for e in onnx.load(base).metadata_props}, "base")
    assert any(norm.ulps is not None for norm in folded.norms.values())
    assert bool(folded.unused) == (family == "yolo26n")
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors", names=("dog", "rhino"))
    made = patch(base, adapter, tmp_path / "line.onnx")
    assert graph_bytes(made.path) == graph_bytes(exported_merged(checkpoint, adapter, tmp_path))


@pytest.mark.slow
def test_layer_that_the_exporter_changed_is_refused_by_name(tmp_path) -> None:
    checkpoint = write_random("yolov9t", tmp_path / "base.pt")  # its RepConv becomes one convolution
    base = export(checkpoint, tmp_path / "base.onnx").path
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"does not have as the checkpoint had them, such as model\.\d.*merge and"):
        patch(base, adapter, tmp_path / "line.onnx")
    head = random_adapter(checkpoint, tmp_path / "h.safetensors", settings=AdapterSettings(targets="head"))
    made = patch(base, head, tmp_path / "line.onnx")
    assert graph_bytes(made.path) == graph_bytes(exported_merged(checkpoint, head, tmp_path))


def test_int8_graph_is_the_workstations_to_the_bit(base_onnx, with_recipe, tmp_path) -> None:
    adapter, int8 = with_recipe
    made = patch(base_onnx, adapter, tmp_path / "line.onnx", int8=True)
    assert graph_bytes(made.path) == graph_bytes(int8)
    card = inspect(made.path)
    assert card.kind == "int8" and card.card["settings"]["scheme"]["name"] == "x86"
    assert made.bytes < base_onnx.stat().st_size / 2


def test_thresholds_of_the_int8_file_come_along(base_onnx, with_recipe, tmp_path) -> None:
    loaded = load_arrays(with_recipe[0])
    limits = [0.1 + 0.01 * index for index in range(len(loaded.card.names))]
    fitted = changed(
        with_recipe[0], tmp_path / "a.safetensors", quantization={**loaded.card.quantization, "thresholds": limits}
    )
    made = patch(base_onnx, fitted, tmp_path / "line.onnx", int8=True)
    assert list(Detector(made.path).thresholds) == limits
    lie = changed(fitted, tmp_path / "b.safetensors", quantization={**loaded.card.quantization, "thresholds": [2.0]})
    with pytest.raises(AdapterError, match=r"thresholds: expected \d+ numbers from 0 to 1"):
        patch(base_onnx, lie, tmp_path / "other.onnx", int8=True)


def test_recipe_leaves_tensors_and_float_patch_as_they_were(base_onnx, adapter, with_recipe, tmp_path) -> None:
    before, after = load_arrays(adapter), load_arrays(with_recipe[0])
    assert all(np.array_equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    one = patch(base_onnx, adapter, tmp_path / "one.onnx")
    two = patch(base_onnx, with_recipe[0], tmp_path / "two.onnx")
    assert one.path.read_bytes() == two.path.read_bytes()


def test_int8_without_a_recipe_is_refused(base_onnx, adapter, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"carries no quantization recipe.*quantize"):
        patch(base_onnx, adapter, tmp_path / "line.onnx", int8=True)
    assert not list(tmp_path.iterdir())


def changed(adapter: Path, out: Path, *, quantization=None, tensors=None, **card) -> Path:
    """Write a lying copy of an adapter."""
    loaded = load_arrays(adapter)
    fields = {**card, **({"quantization": quantization} if quantization is not None else {})}
    save_arrays(ArrayAdapter(dataclasses.replace(loaded.card, **fields), {**loaded.tensors, **(tensors or {})}), out)
    return out


def test_file_that_is_not_the_workstations_is_refused(base_onnx, with_recipe, tmp_path) -> None:
    quantization = dict(load_arrays(with_recipe[0]).card.quantization)
    for precision in ("float", "int8"):
        lie = {**quantization, "constants": {precision: "0" * 64}}
        adapter = changed(with_recipe[0], tmp_path / "lie.safetensors", quantization=lie)
        with pytest.raises(AdapterError, match=f"patched {precision} model is not the one that the workstation made"):
            patch(base_onnx, adapter, tmp_path / "line.onnx", int8=True)
    assert not (tmp_path / "line.onnx").exists()


@pytest.mark.parametrize(
    "quantization",
    [{"format": 2}, {"format": 1}, {"format": 1, "recipe": []}, {"format": 1, "recipe": {"format": 1, "scheme": 3}}],
    ids=["later format", "no recipe", "a list", "no scheme"],
)
def test_broken_recipe_is_refused(quantization, base_onnx, adapter, tmp_path) -> None:
    lie = changed(adapter, tmp_path / "lie.safetensors", quantization=quantization)
    with pytest.raises(AdapterError, match="quantization"):
        patch(base_onnx, lie, tmp_path / "line.onnx", int8=True)


def test_lying_adapters_are_refused(base_onnx, adapter, tmp_path) -> None:
    loaded = load_arrays(adapter)
    name = next(name for name in loaded.tensors if name.endswith("lora_A.weight"))
    lies = {
        "belongs to": {"base": {"name": "x.pt", "fingerprint": "0" * 64}},
        "export the base with --imgsz 640": {"preprocessing": {**loaded.card.preprocessing, "image_size": 640}},
        "expected shape": {"tensors": {name: np.zeros((1, 1, 1, 1), np.float16)}},
        "belongs to no layer": {"tensors": {"model.0.conv.extra": np.zeros(3, np.float16)}},
        "does not have": {"tensors": {"model.99.conv.lora_A.weight": np.zeros(3, np.float16)}},
        r"cv3\.0\.2\.weight: expected shape": {"names": (*loaded.card.names, "one more")},
        "not finite": {"tensors": {name: np.full_like(loaded.tensors[name], 6e4)}, "settings": HUGE},
    }
    for message, fields in lies.items():
        with pytest.raises(AdapterError, match=message):
            patch(base_onnx, changed(adapter, tmp_path / "lie.safetensors", **fields), tmp_path / "line.onnx")
    assert not (tmp_path / "line.onnx").exists()


HUGE = AdapterSettings(LoRA(rank=2, alpha=1e38))


def test_incomplete_adapter_is_refused(base_onnx, adapter, tmp_path) -> None:
    loaded = load_arrays(adapter)
    for missing in ("model.0.conv.lora_A.weight", "model.0.conv.bias_delta", "model.23.cv3.0.2.bias"):
        tensors = {name: tensor for name, tensor in loaded.tensors.items() if name != missing}
        save_arrays(ArrayAdapter(loaded.card, tensors), tmp_path / "lie.safetensors")
        with pytest.raises(AdapterError, match=f"{missing}: missing"):
            patch(base_onnx, tmp_path / "lie.safetensors", tmp_path / "line.onnx")


@pytest.fixture(scope="module")
def live(checkpoint, tmp_path_factory) -> ArrayAdapter:
    path = tmp_path_factory.mktemp("live") / "live.safetensors"
    settings = AdapterSettings(LoRA(rank=2), normalization="live", train_bias=False)
    return load_arrays(random_adapter(checkpoint, path, settings=settings))


@pytest.mark.parametrize("ending", [".gain_delta", ".bias_delta"])
def test_trained_normalization_must_be_whole(ending, live, base_onnx, checkpoint, tmp_path) -> None:
    """One tensor short, or all of them, on the device as on the workstation."""
    found = [name for name in live.tensors if name.endswith(ending)]
    lie, out = tmp_path / "lie.safetensors", tmp_path / "line.onnx"
    for missing in (found[:1], found):
        tensors = {name: tensor for name, tensor in live.tensors.items() if name not in missing}
        save_arrays(ArrayAdapter(live.card, tensors), lie)
        message = rf"lie\.safetensors: .*: {len(missing)} tensors differ: .*model\.0\.conv\{ending}: missing"
        with pytest.raises(AdapterError, match=message):
            patch(base_onnx, lie, out)
        with pytest.raises(AdapterError, match=message):
            AdapterBank(base_onnx).add("a", lie)
        with pytest.raises(AdapterError, match=rf"model\.0\.conv\{ending}: missing"):
            merge(checkpoint, lie, tmp_path / "merged.pt")
    assert list(tmp_path.iterdir()) == [lie]


def test_what_a_frozen_normalization_came_to_is_refused(live, base_onnx, checkpoint, tmp_path) -> None:
    settings = dataclasses.replace(live.card.settings, normalization="frozen")
    lie = tmp_path / "lie.safetensors"
    save_arrays(ArrayAdapter(dataclasses.replace(live.card, settings=settings), live.tensors), lie)
    with pytest.raises(AdapterError, match=r"lie\.safetensors: .*\.gain_delta: belongs to no layer"):
        patch(base_onnx, lie, tmp_path / "line.onnx")
    with pytest.raises(AdapterError, match=r"\.gain_delta: belongs to no layer"):
        merge(checkpoint, lie, tmp_path / "merged.pt")
    assert list(tmp_path.iterdir()) == [lie]


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1e-6, 0.0])
def test_a_norm_with_a_silent_channel_has_no_gain_to_bring(weight, tmp_path) -> None:
    """It stays frozen in training, so the device expects nothing of it either."""
    model = random_detector("yolo11n")
    with torch.no_grad():
        model.model[0].bn.weight[3] = weight
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    checkpoint = write_model(model, tmp_path / "base.pt")
    base = export(checkpoint, tmp_path / "base.onnx").path
    settings = AdapterSettings(LoRA(rank=2), normalization="live")
    adapter = random_adapter(checkpoint, tmp_path / "a.safetensors", settings=settings)
    gains = [name for name in load_arrays(adapter).tensors if name.endswith(".gain_delta")]
    assert gains and "model.0.conv.gain_delta" not in gains
    made = patch(base, adapter, tmp_path / "line.onnx")
    np.testing.assert_array_equal(run(made.path), run(exported_merged(checkpoint, adapter, tmp_path)))


@pytest.mark.parametrize("kept", [0, 7, 300, 0.5, 0.999])
def test_truncated_files_are_refused(kept, base_onnx, adapter, tmp_path) -> None:
    for whole, error in ((adapter, AdapterError), (base_onnx, ModelError)):
        content = whole.read_bytes()
        cut = tmp_path / whole.name
        cut.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
        files = {"model": base_onnx, "adapter": adapter, "model" if whole == base_onnx else "adapter": cut}
        with pytest.raises(error, match=str(cut)):
            patch(**files, out=tmp_path / "line.onnx")


def test_one_flipped_bit_of_a_tensor_is_refused(base_onnx, adapter, tmp_path) -> None:
    content = bytearray(adapter.read_bytes())
    content[-1001] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="damaged"):
        patch(base_onnx, tmp_path / "flipped.safetensors", tmp_path / "line.onnx")


def test_flipped_bytes_give_an_error_of_ours_or_a_file_that_works(base_onnx, adapter, tmp_path) -> None:
    generator = np.random.default_rng(0)
    for whole in (adapter, base_onnx):
        content = np.frombuffer(whole.read_bytes(), np.uint8)
        for _ in range(25):
            broken = content.copy()
            start = generator.integers(len(content)) if generator.random() < 0.5 else generator.integers(3000)
            broken[start : start + 8] = generator.integers(0, 256, 8)[: len(broken[start : start + 8])]
            flipped = tmp_path / f"flipped{whole.suffix}"
            flipped.write_bytes(broken.tobytes())
            files = {"model": base_onnx, "adapter": adapter, "model" if whole == base_onnx else "adapter": flipped}
            try:
                made = patch(**files, out=tmp_path / "line.onnx", overwrite=True)
            except VisionLoraError:
                continue
            assert np.isfinite(run(made.path)).all()


@pytest.mark.parametrize("whole", [True, False])
def test_flipped_bits_of_the_base_are_refused(whole, base_onnx, adapter, tmp_path) -> None:
    generator, flipped = np.random.default_rng(1), tmp_path / "flipped.onnx"
    content = base_onnx.read_bytes()
    for place in generator.integers(0, len(content) if whole else 3000, 30):
        broken = bytearray(content)
        broken[place] ^= 1 << int(generator.integers(8))
        flipped.write_bytes(broken)
        with pytest.raises(ModelError, match=r"flipped\.onnx: damaged or edited"):
            patch(flipped, adapter, tmp_path / "line.onnx")
        with pytest.raises(ModelError, match="damaged or edited"):
            AdapterBank(flipped)


def test_base_without_a_checksum_is_taken_with_a_warning(base_onnx, adapter, tmp_path, caplog) -> None:
    base = rewritten(base_onnx, tmp_path / "base.onnx", lambda model: None)
    made = patch(base, adapter, tmp_path / "line.onnx")
    assert "it has no checksum" in caplog.text and is_sealed(made.path)


def rewritten(base_onnx: Path, out: Path, change) -> Path:
    model = onnx.load(base_onnx)
    change(model)
    unseal(model)
    out.write_bytes(model.SerializeToString())
    return out


def entry_of(model: onnx.ModelProto):
    return next(entry for entry in model.metadata_props if entry.key == ENTRY)


def test_base_that_reads_another_file_is_refused(base_onnx, adapter, tmp_path) -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "model.model.0.conv.weight")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    base = rewritten(base_onnx, tmp_path / "base.onnx", outside)
    with pytest.raises(ModelError, match=r"expected float32 inside the file|its graph is broken"):
        patch(base, adapter, tmp_path / "line.onnx")


def test_entry_that_unpacks_without_end_is_refused(base_onnx, adapter, tmp_path) -> None:
    import base64
    import zlib

    packer = zlib.compressobj(9)
    block = bytes(1 << 24)
    bomb = b"".join(packer.compress(block) for _ in range(20)) + packer.flush()  # 320 MiB in 0.3 MiB

    def explosive(model: onnx.ModelProto) -> None:
        entry_of(model).value = base64.b64encode(bomb).decode()

    base = rewritten(base_onnx, tmp_path / "base.onnx", explosive)
    with pytest.raises(ModelError, match="is cut off, or unpacks to more than"):
        patch(base, adapter, tmp_path / "line.onnx")


def test_file_without_the_entry_is_no_base(base_onnx, adapter, tmp_path) -> None:
    base = rewritten(base_onnx, tmp_path / "base.onnx", lambda model: model.metadata_props.remove(entry_of(model)))
    with pytest.raises(ModelError, match="export the base's checkpoint with this version"):
        patch(base, adapter, tmp_path / "line.onnx")


def test_previous_file_is_kept_and_comes_back(base_onnx, adapter, exported, checkpoint, tmp_path) -> None:
    line = tmp_path / "line.onnx"
    first = patch(base_onnx, adapter, line)
    assert first.previous is None
    with pytest.raises(OutputError, match="exists already"):
        patch(base_onnx, adapter, line)
    other = random_adapter(checkpoint, tmp_path / "other.safetensors")
    second = patch(base_onnx, other, line, overwrite=True)
    assert second.previous == previous_of(line) and second.names == ("scratch", "pit")
    assert rollback(line) == line and graph_bytes(line) == graph_bytes(exported.path)
    with pytest.raises(OutputError, match="found none; nothing is changed"):
        rollback(line)


def test_failed_self_test_leaves_the_old_file_and_nothing_else(base_onnx, adapter, checkpoint, tmp_path) -> None:
    line = tmp_path / "line.onnx"
    patch(base_onnx, adapter, line)
    before = line.read_bytes()
    loaded = load_arrays(random_adapter(checkpoint, tmp_path / "dead.safetensors"))
    dead = dict(loaded.tensors)
    for level in range(3):
        dead[f"model.23.cv3.{level}.2.weight"] = np.zeros_like(dead[f"model.23.cv3.{level}.2.weight"])
        dead[f"model.23.cv3.{level}.2.bias"] = np.full(2, -6e4, np.float16)
    save_arrays(ArrayAdapter(loaded.card, dead), tmp_path / "dead.safetensors")
    with pytest.raises(ModelError, match="same scores for every picture"):
        patch(base_onnx, tmp_path / "dead.safetensors", line, overwrite=True)
    assert line.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"line.onnx", "dead.safetensors"}


def test_rollback_to_a_broken_file_changes_nothing(base_onnx, adapter, tmp_path) -> None:
    line = patch(base_onnx, adapter, tmp_path / "line.onnx").path
    before = line.read_bytes()
    previous_of(line).write_bytes(before[:1000])
    with pytest.raises(ModelError):
        rollback(line)
    assert line.read_bytes() == before


def test_wrong_outputs_are_refused(base_onnx, adapter, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        patch(base_onnx, adapter, tmp_path / "line.pt")
    with pytest.raises(UsageError, match="another file than the base"):
        patch(base_onnx, adapter, base_onnx, overwrite=True)


def test_the_device_needs_no_torch(base_onnx, with_recipe, tmp_path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ultralytics'] = None; import visionlora as vl; "
        f"vl.patch({str(base_onnx)!r}, {str(with_recipe[0])!r}, {str(tmp_path / 'line.onnx')!r}, int8=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "line.onnx").is_file()
