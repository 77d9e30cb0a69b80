"""Names on the hub, from a server on this machine: what they mean, what is fetched, what is refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import visionlora as vl
from tests.hub_server import TOKEN, Hub
from visionlora.formats.kinds import CHECKPOINT, OPENVINO
from visionlora.hub import HubName, is_hub_name, local_file, parse_hub_name
from visionlora.isolation import cache_folder
from visionlora.models import parse_spec

NOTHING = "hf://nobody/nothing"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://owner/steel", HubName("owner/steel")),
        ("hf://owner/steel@v1.0", HubName("owner/steel", "v1.0")),
        ("hf://o/n@refs/pr/3/a/b.pt", HubName("o/n", "refs/pr/3", "a/b.pt")),
        ("hf://o/n/sub/model.onnx", HubName("o/n", None, "sub/model.onnx")),
        (Path("hf://o/n/b.pt"), HubName("o/n", None, "b.pt")),
    ],
)
def test_a_name_is_read_and_written(text: str | Path, name: HubName) -> None:
    assert is_hub_name(text) and parse_hub_name(text) == name == parse_hub_name(str(name))


@pytest.mark.parametrize(
    "text",
    [
        *("hf://o", "hf:///n", "hf://o/n/", "hf://o/n@", "hf://o/n/../x.pt", "hf://o/n//x", "hf://o/..", "hf://o/n\\x"),
        *("hf://o/n/a\nb", "hf://o--p/n", "hf://o/n/C:/x.pt", "hf://é/n"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(vl.UsageError, match="expected hf://owner/name"):
        local_file(text, CHECKPOINT)


def test_paths_are_kept_as_they_are() -> None:
    assert [local_file(path, CHECKPOINT) for path in ("yolo11n.pt", Path("a/b.pt"))] == ["yolo11n.pt", Path("a/b.pt")]


def test_the_only_fitting_file_is_fetched_with_its_bytes(hub: Hub) -> None:
    hub.hold("o/n", {"README.md": b"text", "weights/base.pt": b"weights"})
    events: list[vl.Progress] = []
    with vl.progress_to(events.append):
        path = Path(local_file("hf://o/n", CHECKPOINT))
    assert path.read_bytes() == b"weights" and path.name == "base.pt"
    assert [(event.stage, event.done, event.of) for event in events] == [("fetch", 0, 1), ("fetch", 1, 1)]
    assert Path(local_file("hf://o/n/README.md", CHECKPOINT)).read_bytes() == b"text"


def test_a_file_is_fetched_once_and_a_pinned_one_asked_for_once(hub: Hub, monkeypatch) -> None:
    commit = hub.hold("o/n", {"base.pt": b"weights"})
    first = local_file("hf://o/n", CHECKPOINT)
    hub.requests.clear()
    assert local_file("hf://o/n", CHECKPOINT) == first and len(hub.requests) == 1  # whether main has moved
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert local_file(f"hf://o/n@{commit}/base.pt", CHECKPOINT) == first


def test_a_revision_is_a_tag_or_a_commit(hub: Hub) -> None:
    old = hub.hold("o/n", {"base.pt": b"old"})
    hub.hold("o/n", {"base.pt": b"new"})
    hub.repositories["o/n"].tags["v1"] = old
    contents = [Path(local_file(f"hf://o/n{at}", CHECKPOINT)).read_bytes() for at in ("", "@v1", f"@{old}")]
    assert contents == [b"new", b"old", b"old"]


def test_a_damaged_file_of_the_cache_is_fetched_again(hub: Hub) -> None:
    hub.hold("o/n", {"base.pt": b"weights"})
    path = Path(local_file("hf://o/n", CHECKPOINT))
    path.write_bytes(b"wrights")
    assert Path(local_file("hf://o/n", CHECKPOINT)).read_bytes() == b"weights"


def test_the_weights_beside_a_model_come_with_it(hub: Hub) -> None:
    hub.hold("o/n", {"m/model.xml": b"x", "m/model.bin": b"w", "m/model.metadata.yaml": b"y", "m/other.bin": b"o"})
    folder = Path(local_file("hf://o/n", OPENVINO)).parent
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.metadata.yaml", "model.xml"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (NOTHING, "nothing: no such repository, or a private one .* HF_TOKEN"),
        ("hf://o/secret", "no such repository, or a private one"),
        ("hf://o/n@v9", "v9: no such branch, tag or commit"),
        ("hf://o/n/c.pt", "c.pt: no such file; it holds a.pt, b.pt, steel.safetensors"),
        ("hf://o/n", r"one file that ends in .pt, got 2: a.pt, b.pt; name one of them, such as hf://o/n/a.pt"),
        ("hf://o/steel", r"it holds adapter.safetensors; an adapter needs its base: write base.pt\+hf://o/steel"),
    ],
)
def test_what_the_hub_has_not_is_said(name: str, message: str, hub: Hub) -> None:
    hub.hold("o/n", {"a.pt": b"a", "b.pt": b"b", "steel.safetensors": b"s"})
    hub.hold("o/steel", {"adapter.safetensors": b"s"})
    hub.hold("o/secret", {"a.pt": b"a"}, private=True)
    with pytest.raises(vl.HubError, match=message):
        local_file(name, CHECKPOINT)


def test_a_private_repository_is_opened_by_the_token_alone_which_no_other_host_gets(hub: Hub, monkeypatch) -> None:
    hub.hold("o/secret", {"a.pt": b"a"}, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(vl.HubError, match="token is none that the hub knows") as raised:
        local_file("hf://o/secret", CHECKPOINT)
    assert "hf_wrong" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert Path(local_file("hf://o/secret", CHECKPOINT)).read_bytes() == b"a"
    assert [token for method, path, token in hub.requests if path.startswith("/lfs/")] == [""]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "nonsense"])
def test_a_hub_that_is_not_there_is_said(endpoint: str, hub: Hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(vl.HubError, match=r"n: the hub cannot be reached: .*; check the network, and HF_ENDPOINT"):
        local_file("hf://o/n", CHECKPOINT)


def test_offline_mode_is_kept_to(hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(vl.HubError, match="HF_HUB_OFFLINE forbids"):
        local_file("hf://o/n", CHECKPOINT)
    assert hub.requests == []


def test_without_the_library_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(vl.UsageError, match=r"pip install '\.\[hub\]'"):
        local_file("hf://o/n", CHECKPOINT)


@pytest.mark.parametrize("file", ["base.pt", "model.xml"], ids=["kept beside git", "kept in git"])
@pytest.mark.parametrize("sent", [b"wrights", b"weigh", b"weights and more"])
def test_other_bytes_than_listed_are_refused_and_not_kept(sent: bytes, file: str, hub: Hub) -> None:
    hub.hold("o/n", {file: b"weights"})
    hub.lies[file] = sent
    with pytest.raises(vl.HubError, match=r"damaged: what came is not|file should be of size 7 but has size"):
        local_file("hf://o/n", CHECKPOINT, OPENVINO)
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listing: [], "answer cannot be used"),
        (lambda listing: {**listing, "sha": "../../x"}, "expected the hash of a commit from the hub, got '../../x'"),
        (lambda listing: {**listing, "siblings": 3}, "answer cannot be used"),
        (lambda listing: {**listing, "siblings": [{"rfilename": "a.pt", "size": 1 << 40}]}, "expected at most"),
        (lambda listing: {**listing, "siblings": [{"rfilename": "../../a.pt", "size": 1}]}, "it holds nothing"),
        (lambda listing: {**listing, "siblings": [{"rfilename": "/etc/a.pt", "size": 1}]}, "it holds nothing"),
        (lambda listing: {**listing, "siblings": [{"rfilename": 3, "size": "x"}]}, "it holds nothing"),
    ],
)
def test_a_hostile_listing_is_refused(change: Callable, message: str, hub: Hub) -> None:
    hub.hold("o/n", {"base.pt": b"weights"})
    hub.change = change
    with pytest.raises(vl.HubError, match=message):
        local_file("hf://o/n", CHECKPOINT)
    assert all(path.startswith("/api/") for _, path, _ in hub.requests)


def test_a_hostile_etag_writes_nothing_outside_of_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.hold("o/n", {"base.pt": b"weights"})
    hub.etag = f"{'../' * 12}{tmp_path.relative_to('/')}/planted"
    with pytest.raises(vl.HubError):
        local_file("hf://o/n", CHECKPOINT)
    assert not list(tmp_path.iterdir())


def test_a_model_is_called_by_its_file_or_by_the_label(hub: Hub) -> None:
    hub.hold("o/n", {"base.pt": b"weights"})
    hub.hold("o/steel", {"adapter.safetensors": b"adapter"})
    specs = [parse_spec(text) for text in ("hf://o/n", "hf://o/n/base.pt+hf://o/steel", "x=a.pt+hf://o/steel@main")]
    assert [spec.label for spec in specs] == ["base.pt", "adapter.safetensors", "x"]
    assert [spec.path.read_bytes() for spec in specs[:2]] == [b"weights", b"weights"]
    assert specs[2].path == Path("a.pt") and specs[2].file.read_bytes() == b"adapter"


CALLS: dict[str, Callable[[str], object]] = {
    "adapt.model": lambda name: vl.adapt(name, "d.yaml", "run"),
    "adapt.adapter": lambda name: vl.adapt("a.pt", "d.yaml", "run", adapter=name),
    "train.model": lambda name: vl.train(name, "d.yaml", "run"),
    "train.adapter": lambda name: vl.train("a.pt", "d.yaml", "run", adapter=name),
    "plan.model": lambda name: vl.plan(name, "d.yaml", device="cpu"),
    "merge.model": lambda name: vl.merge(name, "a.safetensors", "out.pt"),
    "merge.adapter": lambda name: vl.merge("a.pt", name, "out.pt"),
    "export.model": lambda name: vl.export(name, "out.onnx"),
    "export.adapter": lambda name: vl.export("a.pt", "out.onnx", adapter=name),
    "quantize.model": lambda name: vl.quantize(name, "d.yaml", "out.onnx"),
    "patch.model": lambda name: vl.patch(name, "a.safetensors", "out.onnx"),
    "patch.adapter": lambda name: vl.patch("a.onnx", name, "out.onnx"),
    "bundle.model": lambda name: vl.bundle(name, "out"),
    "evaluate.models": lambda name: vl.evaluate([name], "d.yaml"),
    "bench.models": lambda name: vl.bench([name]),
    "predict.model": lambda name: vl.predict(name, __file__, "out", formats=["json"]),
    "merge_adapters.adapters": lambda name: vl.merge_adapters([name], "out.safetensors"),
    "merge_adapters.model": lambda name: vl.merge_adapters(["a.safetensors"], "out.safetensors", model=name),
    "scale_adapter.adapter": lambda name: vl.scale_adapter(name, "out.safetensors", factor=1),
    "scale_adapter.model": lambda name: vl.scale_adapter("a.safetensors", "out.safetensors", factor=1, model=name),
    "rank_adapter.adapter": lambda name: vl.rank_adapter(name, "out.safetensors", rank=1),
    "rank_adapter.model": lambda name: vl.rank_adapter("a.safetensors", "out.safetensors", rank=1, model=name),
    "export_adapter.model": lambda name: vl.export_adapter(name, "a.safetensors", "out"),
    "export_adapter.adapter": lambda name: vl.export_adapter("a.pt", name, "out"),
    "import_adapter.model": lambda name: vl.import_adapter("peft", "out.safetensors", model=name, data="d.yaml"),
    "inspect.path": lambda name: vl.inspect(name),
    "Detector.model": lambda name: vl.Detector(name),
    "list_adapters.model": lambda name: vl.list_adapters(name),
    "remove_adapter.model": lambda name: vl.remove_adapter(name, "a", "out.onnx"),
    "AdapterBank.base": lambda name: vl.AdapterBank(name),
}
"""Every public function that takes a model or an adapter, by the argument that is a name on the hub here."""
ON_DISK = {"rollback.model", "quantize.adapter", "push.adapter"}
"""Files that are changed, or that are to be put on the hub."""


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function_takes_names_on_the_hub(call: Callable, hub: Hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.hold("o/n", {"readme.txt": b""})
    with pytest.raises(vl.HubError, match="hf://nobody/nothing: no such repository"):
        call(NOTHING)
    assert not list(tmp_path.iterdir())


def test_no_function_that_takes_a_model_is_forgotten() -> None:
    functions = {name: getattr(vl, name) for name in vl.__all__ if inspect.isfunction(getattr(vl, name))}
    taking = {
        f"{name}.{parameter}"
        for name, function in functions.items()
        for parameter in inspect.signature(function).parameters
        if parameter in ("model", "models", "adapter", "adapters")
    }
    assert taking <= {*CALLS, *ON_DISK}


def test_a_file_that_is_written_into_is_no_name_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(vl.UsageError, match=r"--adapter hf://o/n: this file is written into; `visionlora pull` it"):
        vl.quantize("a.onnx", "d.yaml", tmp_path / "out.onnx", adapter="hf://o/n")
    assert hub.requests == []
