"""onnxruntime itself loads what is written, and computes what the patched detector does."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

import visionlora as vl
from tests.patching.conftest import IMAGE_SIZE, random_adapter
from visionlora.adapters import AdapterSettings, ArrayAdapter, load_arrays, save_arrays
from visionlora.adapters.methods import IA3, BitFit, DoRA, LoHa, LoRA
from visionlora.cli import main
from visionlora.errors import AdapterError, ModelError, OutputError, UsageError
from visionlora.patching import graph_with_inputs, load_patchable
from visionlora.runtime import OnnxNetwork

OWN_CLASSES = ()
KINDS = {
    "other classes": (("scratch", "pit"), AdapterSettings(LoRA(rank=3))),
    "the base's own classes": (OWN_CLASSES, AdapterSettings(LoRA(rank=4, alpha=1.7))),
    "live and partly full": (("a",), AdapterSettings(LoRA(rank=2, full=5000), normalization="live")),
    "head without biases": (("a",), AdapterSettings(LoRA(rank=12), targets="head", train_bias=False)),
    "dora": (("a", "b"), AdapterSettings(DoRA(rank=3), normalization="live")),
    "ia3": (tuple(map(str, range(20))), AdapterSettings(IA3())),
    "bitfit": (("a",), AdapterSettings(BitFit())),
}


@pytest.fixture(scope="module")
def base_onnx(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vl.export(checkpoint, tmp_path_factory.mktemp("base") / "exported.onnx", imgsz=IMAGE_SIZE).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all adapters of this module are written to, beside one graph."""
    return tmp_path_factory.mktemp("ort")


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, base_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made, own = tmp_path_factory.mktemp("adapters"), OnnxNetwork(base_onnx).names
    return {
        name: random_adapter(checkpoint, made / f"{name}.safetensors", names=names or own, settings=settings)
        for name, (names, settings) in KINDS.items()
    }


def written(base: Path, adapter: Path, folder: Path) -> vl.ExportedAdapter:
    out = folder / f"{adapter.stem}.onnx_adapter"
    return vl.export_adapter(base, adapter, out, format="onnx-adapter", overwrite=out.exists())


def session(graph: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options)


LOADED: list[onnxruntime.LoraAdapter] = []  # options do not keep theirs


def active(path: Path) -> onnxruntime.RunOptions:
    adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    adapter.Load(str(path))
    LOADED.append(adapter)
    options.add_active_adapter(adapter)
    return options


PICTURE = np.random.default_rng(1).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=2e-3)  # pixels
    np.testing.assert_allclose(got[:, 4:], expected[:, 4:], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_computes_what_each_patched_detector_does(kind, base_onnx, adapters, folder, tmp_path) -> None:
    made = written(base_onnx, adapters[kind], folder)
    patched = OnnxNetwork(vl.patch(base_onnx, adapters[kind], tmp_path / "line.onnx").path)
    got = session(made.graph).run(None, {"images": PICTURE}, active(made.path))[0]
    assert_near(got, patched(PICTURE)[0])
    assert np.abs(got[:, :4] - OnnxNetwork(base_onnx)(PICTURE)[0][:, :4]).max() > 0.1
    card = vl.inspect(made.path)
    assert card.kind == "onnx-adapter" and tuple(card.card["names"]) == patched.names == made.names
    assert made.bytes == made.path.stat().st_size + made.path.with_suffix(".json").stat().st_size


def test_adapters_change_from_run_to_run_and_without_one_it_is_the_base(base_onnx, adapters, folder) -> None:
    first, second = (written(base_onnx, adapters[kind], folder) for kind in ("other classes", "ia3"))
    assert first.graph == second.graph
    detector, base = session(first.graph), OnnxNetwork(base_onnx)
    results = [
        detector.run(None, {"images": PICTURE}, options)[0]
        for options in [active(first.path), active(second.path), None] * 2
    ]
    for again, result in zip(results[3:], results[:3], strict=True):
        np.testing.assert_array_equal(again, result)
    assert [result.shape[1] for result in results[:3]] == [4 + 2, 4 + 20, 4 + len(base.names)]
    assert_near(results[2], base(PICTURE)[0])
    assert OnnxNetwork(first.graph).names == base.names
    assert_near(OnnxNetwork(first.graph)(PICTURE)[0], base(PICTURE)[0])


def test_a_checkpoint_gives_what_its_export_gives(checkpoint, base_onnx, adapters, folder, tmp_path) -> None:
    first = written(base_onnx, adapters["other classes"], folder)
    second = written(checkpoint, adapters["other classes"], tmp_path)
    assert second.path.read_bytes() == first.path.read_bytes()
    inputs = [{each.name for each in session(made.graph).get_overridable_initializers()} for made in (first, second)]
    assert inputs[0] == inputs[1]


def test_the_example_of_the_page_runs(base_onnx, adapters, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    near = str(adapters["other classes"])
    line = ["adapters", "export", near, "--model", str(base_onnx), "--format", "onnx-adapter"]
    assert main([*line, "--out", "ort/steel.onnx_adapter"]) == 0
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    block = next(each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "onnxruntime" in each)
    ran: dict = {}
    exec(compile(block, "methods.md", "exec"), ran)
    assert_near(ran["prediction"], OnnxNetwork(vl.patch(base_onnx, near, "line.onnx").path)(ran["picture"])[0])


def test_a_graph_of_the_same_base_stays_and_another_is_refused(checkpoint, base_onnx, adapters, tmp_path) -> None:
    made = written(base_onnx, adapters["other classes"], tmp_path)
    before = made.graph.stat()
    written(base_onnx, adapters["bitfit"], tmp_path)
    assert made.graph.stat().st_ino == before.st_ino
    made.graph.write_bytes(base_onnx.read_bytes())
    out = tmp_path / "b.onnx_adapter"
    with pytest.raises(OutputError, match=r"base\.onnx: exists, and is no graph for adapters of base\.pt at 96 px"):
        vl.export_adapter(base_onnx, adapters["bitfit"], out, format="onnx-adapter")
    assert not out.exists() and made.graph.read_bytes() == base_onnx.read_bytes()
    vl.export_adapter(base_onnx, adapters["bitfit"], out, format="onnx-adapter", overwrite=True)
    assert_near(session(made.graph).run(None, {"images": PICTURE})[0], OnnxNetwork(base_onnx)(PICTURE)[0])


def test_onnxruntime_refuses_an_adapter_of_another_base(base_onnx, adapters, folder) -> None:
    base = load_patchable(base_onnx)
    other = dataclasses.replace(base, folded=dataclasses.replace(base.folded, fingerprint="f" * 64))
    made = written(base_onnx, adapters["ia3"], folder)
    with pytest.raises(InvalidArgument, match=r"Invalid input name: \w{8}\.model\."):
        session(graph_with_inputs(other).SerializeToString()).run(None, {"images": PICTURE}, active(made.path))


def test_what_cannot_be_written_is_refused_and_nothing_is_left(checkpoint, base_onnx, adapters, tmp_path) -> None:
    loha = random_adapter(checkpoint, tmp_path / "loha.safetensors", settings=AdapterSettings(LoHa(rank=2)))
    packed = random_adapter(checkpoint, tmp_path / "nf4.safetensors", settings=AdapterSettings(base_precision="nf4"))
    relu = random_adapter(checkpoint, tmp_path / "relu.safetensors", settings=AdapterSettings(activation="relu"))
    arrays = load_arrays(adapters["other classes"])
    foreign = dataclasses.replace(arrays.card, base={**arrays.card.base, "fingerprint": "f" * 64})
    save_arrays(ArrayAdapter(foreign, arrays.tensors), tmp_path / "foreign.safetensors")
    larger = random_adapter(checkpoint, tmp_path / "128.safetensors", image_size=128)
    near, out = adapters["other classes"], tmp_path / "ort" / "a.onnx_adapter"
    for adapter, name, error, message in (
        (loha, out, UsageError, "the change that loha makes is no product of two small factors"),
        (packed, out, UsageError, "the adapter belongs to a base in nf4"),
        (relu, out, AdapterError, "trained with --activation relu"),
        (tmp_path / "foreign.safetensors", out, AdapterError, r"the adapter belongs to base\.pt with weights ffff"),
        (larger, out, AdapterError, "trained at 128 px, but .* takes 96 px"),
        (near, out.with_suffix(".onnx"), UsageError, r"expected a name that ends in \.onnx_adapter"),
        (base_onnx, out, AdapterError, "expected an adapter"),
    ):
        with pytest.raises(error, match=message):
            vl.export_adapter(base_onnx, adapter, name, format="onnx-adapter")
    assert not out.parent.exists()
    vl.export_adapter(base_onnx, near, out, format="onnx-adapter")
    with pytest.raises(OutputError, match="exists already"):
        vl.export_adapter(base_onnx, near, out, format="onnx-adapter")
    own = shutil.copy(base_onnx, tmp_path / "base.onnx")
    with pytest.raises(UsageError, match="expected another folder than the base's"):
        vl.export_adapter(own, near, tmp_path / "a.onnx_adapter", format="onnx-adapter", overwrite=True)


def test_the_graph_is_no_base_for_a_patch_and_cannot_be_quantized(
    base_onnx, adapters, folder, surface, tmp_path
) -> None:
    made = written(base_onnx, adapters["ia3"], folder)
    with pytest.raises(ModelError, match="expected a base that adapters can be patched into"):
        vl.patch(made.graph, adapters["ia3"], tmp_path / "line.onnx")
    with pytest.raises(ModelError, match="expected constant weights, got a graph for adapters"):
        vl.quantize(made.graph, surface, tmp_path / "q.onnx", images=2)
