"""The adapter file: what goes in comes out, and what is wrong is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from visionlora.adapters import (
    AdapterCard,
    AdapterSettings,
    ArrayAdapter,
    adapter_identity,
    load_arrays,
    read_adapter_card,
    save_arrays,
)
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, load_adapter, save_adapter
from visionlora.errors import AdapterError
from visionlora.int8.adapter_recipe import check_adapter_of
from visionlora.tasks import DETECT

CARD = AdapterCard(
    settings=AdapterSettings(LoRA(rank=4, alpha=2.0), targets="neck+head"),
    names=("scratch", "Fleck ü"),
    base={"name": "yolo11n.pt", "fingerprint": "ab" * 32},
    preprocessing={"image_size": 320},
    training={"epochs": 3},
    scores={"map50_95": 0.4},
    version="0.1.0",
    task=DETECT.name,
)


def test_card_and_tensors_survive_the_file(tmp_path) -> None:
    tensors = {"a.lora_A.weight": torch.randn(4, 3), "a.bias_delta": torch.randn(3)}
    save_adapter(Adapter(CARD, tensors), tmp_path / "adapter.safetensors", dtype=torch.float32)
    loaded = load_adapter(tmp_path / "adapter.safetensors")
    assert loaded.card == CARD == read_adapter_card(tmp_path / "adapter.safetensors")
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())


def test_default_precision_is_half(tmp_path) -> None:
    save_adapter(Adapter(CARD, {"a": torch.tensor([1 / 3])}), tmp_path / "a.safetensors")
    assert torch.equal(load_adapter(tmp_path / "a.safetensors").tensors["a"], torch.tensor([1 / 3]).half())


def test_tensor_beyond_half_precision_is_refused_and_leaves_no_file(tmp_path) -> None:
    with pytest.raises(AdapterError, match=r"not finite.*a\.weight"):
        save_adapter(Adapter(CARD, {"a.weight": torch.tensor([1e6])}), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_another_base_is_refused_with_both_fingerprints() -> None:
    with pytest.raises(AdapterError, match=f"{'ab' * 32}.*other.pt.*{'cd' * 32}"):
        CARD.check_base("cd" * 32, "other.pt", family=None)


@pytest.mark.parametrize("own", [{}, {"family": "ultralytics"}], ids=["old", "new"])
def test_a_base_of_another_family_is_refused(own: dict[str, str]) -> None:
    card = replace(CARD, base={"fingerprint": "ab" * 32, **own})
    card.check_base("ab" * 32, "base.pt", family="ultralytics")
    card.check_base("ab" * 32, "old.onnx", family=None)
    with pytest.raises(AdapterError, match=r"a detector of 'ultralytics', but x\.pt is one of 'other'"):
        card.check_base("ab" * 32, "x.pt", family="other")


def test_unreadable_files_are_refused(tmp_path) -> None:
    missing, broken, foreign, later = (tmp_path / f"{name}.safetensors" for name in ("m", "b", "f", "l"))
    broken.write_bytes(b"not a tensor")
    save_file({"x": torch.zeros(1)}, foreign)
    save_file({"x": torch.zeros(1)}, later, metadata={"visionlora": '{"format": 99, "kind": "adapter"}'})
    for path, message in ((missing, "cannot read"), (broken, "cannot read"), (foreign, "no adapter"), (later, "99")):
        with pytest.raises(AdapterError, match=message):
            load_adapter(path)


@pytest.fixture
def whole(tmp_path):
    """Return an adapter file with tensors of two types."""
    tensors = {"b.weight": torch.randn(2, 3), "a.weight": torch.randn(5).half(), "ü": torch.randn(1)}
    save_adapter(Adapter(CARD, tensors), tmp_path / "whole.safetensors")
    return tmp_path / "whole.safetensors"


@pytest.mark.parametrize("read", [load_adapter, load_arrays, read_adapter_card, adapter_identity])
def test_one_bit_of_a_tensor_is_noticed_wherever_the_file_is_read(read, whole) -> None:
    content = bytearray(whole.read_bytes())
    for place in (-1, -20):
        content[place] ^= 1
        whole.write_bytes(content)
        with pytest.raises(AdapterError, match=rf"{whole}: damaged: .*expected \w+, got \w+\); fetch the file again"):
            read(whole)
        content[place] ^= 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"shape":[2,3]', b'"shape":[3,2]'),
        (b'"b.weight"', b'"c.weight"'),
        (rb"\"alpha\": 2.0", rb"\"alpha\": 8.0"),
        (rb"\"format\": 2", rb"\"format\"; 2"),
    ],
)
def test_header_that_changed_is_noticed(old, new, whole) -> None:
    content = whole.read_bytes()
    assert content.count(old) == 1
    whole.write_bytes(content.replace(old, new))
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(whole)


def test_header_of_another_form_is_refused(tmp_path) -> None:
    metadata = {"visionlora": CARD.to_json(), "visionlora_sha256": "0" * 64}
    header = json.dumps({"__metadata__": metadata, "a": ["F16", [1], [0, 2]]}).encode()
    lie = tmp_path / "lie.safetensors"
    lie.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(AdapterError, match="damaged: its header cannot be read"):
        load_adapter(lie)


def test_both_writers_make_the_same_bytes_each_time(whole, tmp_path) -> None:
    loaded = load_arrays(whole)
    again = tmp_path / "again.safetensors"
    for _ in range(4):
        save_arrays(ArrayAdapter(CARD, dict(reversed(loaded.tensors.items()))), again)
        assert again.read_bytes() == whole.read_bytes()
        save_adapter(load_adapter(whole), again)
        assert again.read_bytes() == whole.read_bytes()
    assert int.from_bytes(whole.read_bytes()[:8], "little") % 8 == 0


def test_file_without_the_checksum_loads(tmp_path) -> None:
    older = tmp_path / "older.safetensors"
    save_file({"a": torch.ones(2)}, older, metadata={"visionlora": CARD.to_json()})
    assert load_adapter(older).card == load_arrays(older).card == CARD


@pytest.mark.parametrize("read", [load_adapter, load_arrays, lambda path: check_adapter_of("model.onnx", {}, path)])
def test_folder_is_refused_and_the_adapter_in_it_named(read, tmp_path) -> None:
    with pytest.raises(AdapterError, match="got a folder; pass the file itself"):
        read(tmp_path)
    save_adapter(Adapter(CARD, {"a": torch.ones(1)}), tmp_path / "adapter.safetensors")
    with pytest.raises(AdapterError, match=f"got a folder; pass {tmp_path / 'adapter.safetensors'}"):
        read(tmp_path)


def test_a_card_of_format_1_is_lora() -> None:
    settings = {"rank": 4, "alpha": 2.0, "targets": "neck", "train_bias": False, "activation": "relu"}
    fields = {**json.loads(CARD.to_json()), "format": 1, "settings": settings}
    read = AdapterCard.from_json(json.dumps(fields)).settings
    assert read == AdapterSettings(LoRA(4, 2.0), targets="neck", train_bias=False, activation="relu")


def test_a_card_names_its_method_and_an_unknown_one_is_refused() -> None:
    fields = json.loads(CARD.to_json())
    assert fields["settings"]["method"] == "lora" and AdapterCard.from_json(CARD.to_json()) == CARD
    fields["settings"]["method"] = "magic"
    with pytest.raises(AdapterError, match=r"method: expected one of lora, .*, got 'magic'"):
        AdapterCard.from_json(json.dumps(fields))
