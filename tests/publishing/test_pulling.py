"""What comes from the hub is checked like any file of a stranger, and written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import visionlora as vl
from tests.hostile import Call
from tests.hub_server import Hub


@pytest.fixture
def content(run: Path) -> dict[str, bytes]:
    names = ("adapter.safetensors", "report.json", "report_scores.png")
    return {"README.md": b"# steel", **{name: (run / name).read_bytes() for name in names}}


def test_files_that_no_push_writes_are_left_on_the_hub(content, hub: Hub, tmp_path) -> None:
    others = {"evil.py": b"1", "../outside.txt": b"1", "adapter.pkl": b"1", "float/adapter.safetensors": b"1"}
    hub.hold("owner/steel", {**content, **others})
    pulled = vl.pull("hf://owner/steel", tmp_path / "steel")
    assert {path.name: path.read_bytes() for path in (tmp_path / "steel").iterdir()} == content
    assert "for the base base.pt; 4 files of hf://owner/steel@" in str(pulled)


def test_a_revision_is_pulled(content, hub: Hub, tmp_path) -> None:
    old = hub.hold("owner/steel", content)
    hub.hold("owner/steel", {**content, "README.md": b"# newer"})
    hub.repositories["owner/steel"].tags["v1"] = old
    for revision in ("v1", old):
        vl.pull(f"hf://owner/steel@{revision}", tmp_path / revision)
        assert (tmp_path / revision / "README.md").read_bytes() == b"# steel"


def test_files_that_are_there_are_kept_unless_told(content, hub: Hub, tmp_path) -> None:
    hub.hold("owner/steel", content)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(vl.OutputError, match=r"README.md: exists already"):
        vl.pull("hf://owner/steel", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "mine"}
    vl.pull("hf://owner/steel", tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_bytes() == b"# steel"


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    ("name", "damage", "error", "message"),
    [
        ("adapter.safetensors", flipped, vl.AdapterError, "do not have the checksum"),
        ("adapter.safetensors", lambda content: content[:-100], vl.AdapterError, "cannot read it"),
        ("adapter.safetensors", lambda content: b"", vl.AdapterError, "cannot read it"),
        ("report.json", lambda content: b"[]", vl.DataError, "expected a report.json"),
        ("report_scores.png", lambda content: b"<html>", vl.DataError, "expected a PNG picture"),
        ("README.md", lambda content: b"\xff", vl.DataError, "expected text in UTF-8"),
    ],
)
def test_what_is_not_as_its_name_says_leaves_nothing(name, damage, error, message, content, hub: Hub, tmp_path) -> None:
    hub.hold("owner/steel", {**content, name: damage(content[name])})
    with pytest.raises(error, match=message):
        vl.pull("hf://owner/steel", tmp_path / "steel")
    assert not list(tmp_path.iterdir())


def test_a_pickle_in_place_of_an_adapter_is_not_run(hub: Hub, tmp_path) -> None:
    marker = tmp_path / "ran"
    hub.hold("owner/steel", {"adapter.safetensors": pickle.dumps(Call(Path.touch, marker))})
    for reader in (lambda: vl.pull("hf://owner/steel", tmp_path / "steel"), lambda: vl.inspect("hf://owner/steel")):
        with pytest.raises(vl.AdapterError):
            reader()
    assert not marker.exists()


def test_code_in_a_checkpoint_of_the_hub_is_refused_like_any_other(hub: Hub, tmp_path) -> None:
    marker = tmp_path / "ran"
    hub.hold("owner/base", {"base.pt": pickle.dumps(Call(Path.touch, marker))})
    with pytest.raises(vl.ModelError):
        vl.export("hf://owner/base", tmp_path / "out.onnx")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("owner/steel", vl.UsageError, "expected hf://owner/name"),
        ("hf://owner/steel/README.md", vl.UsageError, "expected a repository, got a file in it; drop /README.md"),
        ("hf://owner/other", vl.HubError, "no such repository"),
        ("hf://owner/steel", vl.HubError, "an adapter that push has written, adapter.safetensors; it holds base.pt"),
    ],
)
def test_what_cannot_be_pulled_is_told(name, error, message, hub: Hub, tmp_path) -> None:
    hub.hold("owner/steel", {"base.pt": b"1"})
    with pytest.raises(error, match=message):
        vl.pull(name, tmp_path / "steel")
    assert not list(tmp_path.iterdir())
