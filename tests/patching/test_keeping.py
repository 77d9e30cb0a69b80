"""Keeping the base's classes: its part of the file is the base, bit for bit; adapters come and go without a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.patching.conftest import IMAGE_SIZE, random_adapter
from visionlora.adapters import AdapterSettings, ArrayAdapter, load_arrays, save_arrays
from visionlora.adapters.methods import LoRA
from visionlora.errors import AdapterError, ModelError, UsageError
from visionlora.exporting import export
from visionlora.patching import AdapterBank, list_adapters, patch, remove_adapter
from visionlora.patching.keeping import kept_content, open_kept
from visionlora.runtime import OnnxNetwork
from visionlora.workflows.inspecting import inspect


@pytest.fixture(scope="module")
def make(checkpoint, tmp_path_factory):
    """Return what writes a random adapter that begins at a module."""

    def write(start: int, names: tuple[str, ...] = ("scratch", "pit"), name: str = "", **settings) -> Path:
        settings = AdapterSettings(LoRA(rank=2), **{"targets": f"from:{start}", **settings})
        path = tmp_path_factory.mktemp("adapter") / f"{name or f'from{start}'}.safetensors"
        return random_adapter(checkpoint, path, names=names, settings=settings)

    return write


@pytest.fixture(scope="module")
def two(make) -> tuple[Path, Path]:
    return make(16, name="line"), make(19, ("pit", "rust"), name="rust")


@pytest.fixture(scope="module")
def both(two, base_onnx, tmp_path_factory) -> Path:
    return patch(base_onnx, two, tmp_path_factory.mktemp("both") / "both.onnx", keep="exact").path


def outputs(path: Path) -> np.ndarray:
    picture = np.random.default_rng(1).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    return OnnxNetwork(path)(picture)[0]


def part_of(path: Path, names, anchors: slice) -> np.ndarray:
    """Return the boxes and the scores of some classes (4 + classes, anchors) in some anchors of a file."""
    own = OnnxNetwork(path).names
    return outputs(path)[0, [0, 1, 2, 3, *(4 + own.index(name) for name in names)], anchors]


@pytest.mark.parametrize("start", [5, 16, 23])
def test_base_and_adapter_find_what_they_find_alone_bit_for_bit(start, make, base_onnx, tmp_path) -> None:
    adapter = make(start)
    kept = patch(base_onnx, adapter, tmp_path / "kept.onnx", keep="exact").path
    alone = patch(base_onnx, adapter, tmp_path / "alone.onnx").path
    base = OnnxNetwork(base_onnx)
    assert OnnxNetwork(kept).names == (*base.names, "scratch", "pit")
    count = outputs(base_onnx).shape[2]
    np.testing.assert_array_equal(part_of(kept, base.names, slice(count)), outputs(base_onnx)[0])
    np.testing.assert_array_equal(part_of(kept, ("scratch", "pit"), slice(count, None)), outputs(alone)[0])
    assert not part_of(kept, ("scratch", "pit"), slice(count))[4:].any()
    assert not part_of(kept, base.names, slice(count, None))[4:].any()


def test_what_lies_before_the_first_module_is_there_once(make, base_onnx, tmp_path) -> None:
    kept = onnx.load(patch(base_onnx, make(16), tmp_path / "kept.onnx", keep="exact").path)
    onnx.checker.check_model(kept, full_check=True)
    names = [tensor.name for tensor in kept.graph.initializer]
    assert sum("model.15." in name for name in names) == sum(
        "model.15." in tensor.name for tensor in onnx.load(base_onnx).graph.initializer
    )
    assert sum("model.16.cv1.conv.weight" in name for name in names) == 2


def test_adapters_added_one_after_another_give_the_same_file(two, both, base_onnx, tmp_path) -> None:
    first = patch(base_onnx, two[0], tmp_path / "first.onnx", keep="exact")
    then = patch(first.path, two[1], tmp_path / "then.onnx", keep="exact")
    assert then.path.read_bytes() == both.read_bytes() and then.names[-3:] == ("scratch", "pit", "rust")
    part = slice(outputs(first.path).shape[2])
    np.testing.assert_array_equal(part_of(then.path, first.names, part), outputs(first.path)[0])  # nothing is forgotten


def test_a_file_without_adapters_is_the_base_byte_for_byte(both, base_onnx) -> None:
    kept = open_kept(both)
    assert [(each.name, each.start) for each in kept.adapters] == [("line.safetensors", 16), ("rust.safetensors", 19)]
    assert kept_content(open_kept(base_onnx)) == base_onnx.read_bytes()
    assert kept.base.sha256 == inspect(base_onnx).sha256


@pytest.mark.parametrize(("rule", "finders"), [("both", (0, 1, 2)), ("base", (0,)), ("new", (2,))])
def test_a_class_that_several_know_is_found_by_rule(rule, finders, make, base_onnx, tmp_path) -> None:
    known = OnnxNetwork(base_onnx).names[3]
    adapters = [make(22, (known, "pit"), name=name, train_bias=name == "a") for name in ("a", "b")]
    kept = patch(base_onnx, adapters, tmp_path / "kept.onnx", keep="exact", joined=rule)
    assert kept.names == (*OnnxNetwork(base_onnx).names, "pit")
    scores = part_of(kept.path, [known], slice(None))[4].reshape(3, -1)
    assert tuple(np.flatnonzero(scores.any(axis=1))) == finders
    assert inspect(kept.path).card["kept"]["joined"] == rule == open_kept(kept.path).rule


def test_an_adapter_that_is_taken_out_leaves_no_trace(two, both, base_onnx, tmp_path) -> None:
    for gone, left in ((0, 1), (1, 0)):
        listed = list_adapters(both).adapters
        without = remove_adapter(both, (listed[gone].id, listed[gone].name)[gone], tmp_path / f"{left}.onnx")
        expected = patch(base_onnx, two[left], tmp_path / f"only{left}.onnx", keep="exact").path
        assert without.path.read_bytes() == expected.read_bytes() and without.adapters == (listed[left],)
    remove_adapter(tmp_path / "0.onnx", "line.safetensors", tmp_path / "base.onnx")
    assert (tmp_path / "base.onnx").read_bytes() == base_onnx.read_bytes()


def test_what_a_file_holds_is_told(both, base_onnx, tmp_path) -> None:
    first, line, rust, shared = str(list_adapters(both)).splitlines()
    assert "with 14 classes, unchanged" in first and line.endswith("line.safetensors, from module 16: scratch, pit")
    assert rust.endswith("pit, rust") and shared == "known to several parts, found by every part that knows it: pit"
    with pytest.raises(ModelError, match="expected adapters beside a base"):
        list_adapters(base_onnx)
    with pytest.raises(UsageError, match=r"got none of them; it has \w{8} \(line.safetensors\), "):
        remove_adapter(both, "steel", tmp_path / "out.onnx")
    with pytest.raises(UsageError, match="expected another file"):
        remove_adapter(both, "line.safetensors", both, overwrite=True)


def test_export_with_adapters_gives_the_patched_file(two, checkpoint, base_onnx, tmp_path) -> None:
    exported = export(checkpoint, tmp_path / "kept.onnx", adapter=two, keep="exact", joined="base")
    patched = patch(base_onnx, two, tmp_path / "patched.onnx", keep="exact", joined="base")
    assert exported.path.read_bytes() == patched.path.read_bytes() and exported.names == patched.names
    with pytest.raises(UsageError, match="expected the adapters that stand beside"):
        export(checkpoint, tmp_path / "other.onnx", keep="exact")
    with pytest.raises(UsageError, match="expected --format onnx, got ncnn"):
        export(checkpoint, tmp_path / "other.param", adapter=two, keep="exact", format="ncnn")


def test_the_card_names_the_parts(both, base_onnx) -> None:
    card = inspect(both).card
    assert card["kept"]["base"]["names"] == list(OnnxNetwork(base_onnx).names)
    assert [(each["names"], each["start"]) for each in card["kept"]["adapters"]] == [
        (["scratch", "pit"], 16),
        (["pit", "rust"], 19),
    ]
    assert card["parents"]["adapter"] == card["kept"]["adapters"][0]["sha256"]


def test_an_adapter_of_the_first_layers_is_refused_with_what_to_train(make, base_onnx, tmp_path) -> None:
    adapter = make(16, targets="all")
    with pytest.raises(AdapterError, match=r"--targets all that changes .* such as model\.0\.conv.*from:16"):
        patch(base_onnx, adapter, tmp_path / "kept.onnx", keep="exact")
    loaded = load_arrays(make(10))
    lie = AdapterSettings(LoRA(rank=2), targets="from:16")
    card = type(loaded.card)(**{**vars(loaded.card), "settings": lie})
    save_arrays(ArrayAdapter(card, loaded.tensors), tmp_path / "lie.safetensors")
    with pytest.raises(AdapterError, match=r"from:16 that changes \d+ of them, such as model\.10"):
        patch(base_onnx, tmp_path / "lie.safetensors", tmp_path / "kept.onnx", keep="exact")
    assert not (tmp_path / "kept.onnx").exists()


def test_what_does_not_go_together_is_refused(two, both, base_onnx, tmp_path) -> None:
    out = tmp_path / "kept.onnx"
    with pytest.raises(UsageError, match="expected one file, got 2"):
        patch(base_onnx, two, out)
    with pytest.raises(UsageError, match="--joined: expected --keep exact with it"):
        patch(base_onnx, two[0], out, joined="new")
    with pytest.raises(UsageError, match="--keep: expected exact, got 'all'"):
        patch(base_onnx, two[0], out, keep="all")
    with pytest.raises(UsageError, match="quantize on the workstation"):
        patch(base_onnx, two[0], out, keep="exact", int8=True)
    with pytest.raises(UsageError, match="has this adapter"):
        patch(base_onnx, [two[0], two[0]], out, keep="exact")
    with pytest.raises(ModelError, match="a base alone, got one with adapters beside it"):
        patch(both, two[1], tmp_path / "other.onnx")


def test_an_edited_file_is_refused(two, both, tmp_path) -> None:
    model = onnx.load(both)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "model.model.0.conv.weight")
    weight.raw_data = bytes(len(weight.raw_data))
    entries = [entry for entry in model.metadata_props if entry.key != "visionlora_sha256"]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(ModelError, match="is not the one that it names"):
        patch(tmp_path / "edited.onnx", two[1], tmp_path / "other.onnx", keep="exact")


def test_a_bank_keeps_the_base_too(two, base_onnx, tmp_path) -> None:
    bank = AdapterBank(base_onnx, keep="exact", joined="new")
    detector = bank.add("line", two[0])
    assert detector.names == patch(base_onnx, two[0], tmp_path / "kept.onnx", keep="exact").names
    with pytest.raises(UsageError, match="--int8 --keep exact"):
        AdapterBank(base_onnx, keep="exact", int8=True)
