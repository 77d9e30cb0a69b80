"""Onto the hub and back: the same bytes, nothing that was not meant to go, and no token where it does not belong."""

from __future__ import annotations

import json
import shutil

import pytest

import visionlora as vl
from tests.hub_server import TOKEN, Hub
from visionlora.cli import main
from visionlora.reporting import read_report


@pytest.fixture
def signed_in(hub: Hub, monkeypatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def files_of(hub: Hub, name: str) -> dict[str, bytes]:
    repository = hub.repositories[name]
    return {path: data for path, data in repository.commits[repository.main].items() if path != ".gitattributes"}


def test_what_is_pushed_is_pulled_and_scores_the_same(signed_in: Hub, run, checkpoint, surface, tmp_path) -> None:
    pushed = vl.push(run, "owner/steel", message="first")
    pulled = vl.pull("hf://owner/steel", tmp_path / "steel")
    assert pulled.name.endswith(pushed.commit) and signed_in.repositories["owner/steel"].messages[-1] == "first"
    assert sorted(pushed.files) == sorted(path.name for path in pulled.files)
    for path in pulled.files:
        assert path.name == "README.md" or path.read_bytes() == (run / path.name).read_bytes()
    (there,), (here,) = (
        vl.evaluate([f"{checkpoint}+hf://owner/steel"], surface, imgsz=96).rows,
        read_report(run / "report.json").rows,
    )
    assert there.scores == here.scores and there.sha256 == here.sha256


def test_the_token_is_in_no_file_and_in_no_text(signed_in: Hub, run, tmp_path, capfd) -> None:
    code = main(["push", str(run), "--to", "owner/steel"])
    said = "".join(capfd.readouterr())
    assert code == 0 and "hf://owner/steel: README.md" in said and TOKEN not in said
    size = len(files_of(signed_in, "owner/steel")["README.md"])
    assert size < 10_000 and f"README.md ({size:,} bytes)" in said
    vl.pull("hf://owner/steel", tmp_path / "steel")
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_adapter_file_goes_alone(signed_in: Hub, run, tmp_path) -> None:
    other = shutil.copy(run / "adapter.safetensors", tmp_path / "mine.safetensors")
    (tmp_path / "README.md").write_text("of another project")
    vl.push(other, "owner/steel")
    assert sorted(files_of(signed_in, "owner/steel")) == ["README.md", "adapter.safetensors"]
    assert b"library_name: visionlora" in files_of(signed_in, "owner/steel")["README.md"]


def test_pictures_of_the_data_go_along_only_when_asked(signed_in: Hub, run) -> None:
    vl.push(run, "owner/steel")
    assert "report_detections.png" not in files_of(signed_in, "owner/steel")
    vl.push(run, "owner/steel", pictures=True)
    assert "report_detections.png" in files_of(signed_in, "owner/steel")


def test_a_dry_run_writes_what_would_go_and_asks_nobody(signed_in: Hub, run, tmp_path) -> None:
    vl.push(run, "owner/steel", dry_run=tmp_path / "dry")
    assert signed_in.requests == []
    vl.push(run, "owner/steel")
    written = {path.name: path.read_bytes() for path in (tmp_path / "dry").iterdir()}
    assert written == files_of(signed_in, "owner/steel")
    with pytest.raises(vl.OutputError, match="exists already; choose another folder for --dry-run"):
        vl.push(run, "owner/steel", dry_run=tmp_path / "dry")


def test_a_card_in_the_folder_is_taken(signed_in: Hub, own) -> None:
    (own / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    vl.push(own, "owner/steel")
    assert files_of(signed_in, "owner/steel")["README.md"] == (own / "README.md").read_bytes()
    (own / "README.md").write_text("no metadata")
    with pytest.raises(vl.HubError, match=r"Invalid metadata in README.md. - no metadata"):
        vl.push(own, "owner/steel")


def test_a_push_removes_its_own_old_files_and_no_others(signed_in: Hub, run) -> None:
    signed_in.hold("owner/steel", {"curves.png": b"old", "notes.txt": b"kept"})
    vl.push(run / "adapter.safetensors", "owner/steel")
    assert sorted(files_of(signed_in, "owner/steel")) == ["README.md", "adapter.safetensors", "notes.txt"]


def test_private_is_private_or_refused(signed_in: Hub, run, monkeypatch) -> None:
    vl.push(run, "owner/secret", private=True)
    assert signed_in.repositories["owner/secret"].private
    before = signed_in.hold("owner/open", {"notes.txt": b""})
    with pytest.raises(vl.HubError, match="--private, but it is public already"):
        vl.push(run, "owner/open", private=True)
    assert signed_in.repositories["owner/open"].main == before


def test_without_a_token_nothing_is_asked(hub: Hub, run) -> None:
    with pytest.raises(vl.HubError, match=r"hf://owner/steel: the hub takes files with a token alone; .* HF_TOKEN"):
        vl.push(run, "owner/steel")
    assert hub.requests == []


def test_a_wrong_token_is_told_and_not_shown(hub: Hub, run, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(vl.HubError, match="your token is none that the hub knows") as raised:
        vl.push(run, "owner/steel")
    assert "hf_wrong" not in str(raised.value)


def test_a_report_of_other_models_does_not_go(own) -> None:
    report = json.loads((own / "report.json").read_text())
    report["rows"][0]["parents"]["adapter"] = "0" * 64
    (own / "report.json").write_text(json.dumps(report))
    with pytest.raises(vl.DataError, match=r"expected a report of the adapter beside it .*, got one of other models"):
        vl.push(own, "owner/steel")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "owner"}, vl.UsageError, "--to owner: expected owner/name alone"),
        ({"to": "owner/steel@v1"}, vl.UsageError, "expected owner/name alone"),
        ({"to": "owner/steel/a.safetensors"}, vl.UsageError, "expected owner/name alone"),
        ({"message": " "}, vl.UsageError, "--message: expected some text"),
        ({"licence": "GPL 3"}, vl.UsageError, "--licence: expected a licence as the hub calls it, such as agpl-3.0"),
        ({"adapter": "hf://owner/steel"}, vl.UsageError, "got one on the hub; pull it first"),
        ({"adapter": "nothing.safetensors"}, vl.AdapterError, "cannot read it"),
        ({"adapter": "."}, vl.AdapterError, "expected the folder of a run with adapter.safetensors"),
    ],
)
def test_what_cannot_be_pushed_is_refused(options, error, message, hub: Hub, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        vl.push(**{"adapter": run, "to": "owner/steel", **options})
    assert hub.requests == []
