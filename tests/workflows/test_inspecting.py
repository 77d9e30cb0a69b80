"""`inspect` says what any file of ours is, and runs nothing of it."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import visionlora as vl
from tests.mutants import damaged, damaged_json
from tests.tiny_onnx import write_detector
from visionlora.cli import main
from visionlora.errors import VisionLoraError
from visionlora.formats.pickled import Opaque, read_plain


class _Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)
        self.names, self.task = {0: "zebra", 1: "rh\x1b[31mino"}, "detect"


@pytest.fixture
def plain(tmp_path) -> Path:
    """Return a checkpoint like one of Ultralytics, whose class nobody can import elsewhere."""
    network = _Network()
    content = {"model": network, "date": "2025-01-01", "version": "8.4", "train_args": {"imgsz": 320, "data": "a.yaml"}}
    torch.save(content, tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


class _Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIL_RAN']}",)


def test_plain_checkpoint_is_described_without_its_classes(plain) -> None:
    found = vl.inspect(plain)
    assert found.kind == "checkpoint" and found.card["names"] == ["zebra", "rh\x1b[31mino"]
    assert found.card["training"] == {"imgsz": 320, "data": "a.yaml"} and found.bytes == plain.stat().st_size
    assert "names: zebra, rh\\x1b[31mino" in str(found) and "\x1b" not in str(found)
    assert repr(found) == f"FileCard({str(plain)!r}, checkpoint, {plain.stat().st_size:,} bytes)"


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_checkpoint_does_not_run(protocol, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EVIL_RAN", str(tmp_path / "ran"))
    content = pickle.dumps({"model": _Evil(), "visionlora": {"kind": "merged"}, "more": [_Evil()]}, protocol)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", content)
    assert vl.inspect(tmp_path / "evil.pt").kind == "merged" and not (tmp_path / "ran").exists()
    assert isinstance(read_plain(tmp_path / "evil.pt")["model"], Opaque)
    pickle.loads(content)
    assert (tmp_path / "ran").exists()


def test_damaged_checkpoints(plain, tmp_path) -> None:
    with zipfile.ZipFile(plain) as archive:
        name = next(one for one in archive.namelist() if one.endswith("data.pkl"))
        content = archive.read(name)
    for mutant in damaged(content, 300):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr(name, mutant)
        with suppress(VisionLoraError):
            str(vl.inspect(tmp_path / "a.pt"))
    for mutant in damaged(plain.read_bytes(), 150):
        (tmp_path / "a.pt").write_bytes(mutant)
        with suppress(VisionLoraError):
            str(vl.inspect(tmp_path / "a.pt"))


def test_bundle_as_folder_and_archive(tmp_path) -> None:
    model = write_detector(tmp_path / "model.onnx")
    for out in ("line", "line.zip"):
        vl.bundle(model, tmp_path / out)
        found = vl.inspect(tmp_path / out)
        assert found.kind == "bundle" and found.card["model_kind"] == "onnx" and found.card["created"] in str(found)
        assert "signature: not checked" in str(found)
    (tmp_path / "line" / "model.onnx").write_bytes(b"x")
    with pytest.raises(VisionLoraError, match=r"model\.onnx is not what its maker wrote"):
        vl.inspect(tmp_path / "line")


def test_json_of_every_kind(tmp_path) -> None:
    bench = {"format": 1, "noise": {}, "machine": {"cpu": "x"}, "rows": [{"label": "a", "runtime": "b", "threads": 1}]}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    assert "models: a (b, 1 thread)" in str(vl.inspect(tmp_path / "bench.json"))
    (tmp_path / "q.json").write_text(json.dumps({"kind": "quantization", "sentence": "it holds", "passed": True}))
    assert "sentence: it holds" in str(vl.inspect(tmp_path / "q.json"))
    for text, message in (("{}", "got other JSON"), ("[]", "carries no card"), ("[" * 100_000, "cannot read it")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(VisionLoraError, match=message):
            vl.inspect(tmp_path / "a.json")


def test_damaged_reports(tmp_path) -> None:
    example = json.loads((Path(__file__).parents[2] / "docs" / "example" / "report.json").read_text())
    bench = {"format": 1, "noise": {}, "rows": [{"label": "a", "runtime": "b", "threads": 1}]}
    quantization = {"kind": "quantization", "sentence": "it holds", "warnings": [], "budget": {}, "passed": True}
    for value, count in ((example, 200), (bench, 60), (quantization, 60)):
        for mutant in damaged_json(value, count):
            (tmp_path / "a.json").write_bytes(mutant)
            with suppress(VisionLoraError):
                str(vl.inspect(tmp_path / "a.json"))


def test_folder_of_a_run_and_of_nothing(adapter, tmp_path) -> None:
    found = vl.inspect(adapter.parent)
    assert found.kind == "run" and not found.sha256 and found.card["base"] == vl.inspect(adapter).card["base"]
    assert any(name.startswith("adapter.safetensors") for name in found.card["files"])
    assert str(found).count("targets: all") == str(found).count("names: ") == 1
    assert found.card["training"]["adapter"] == found.card["settings"]  # for programs, all of it
    with pytest.raises(VisionLoraError, match="expected the folder of a run, a bundle or a report"):
        vl.inspect(tmp_path)


def test_both_files_of_a_model_count(tmp_path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    (tmp_path / "m.bin").write_bytes(bytes(1000))
    card = json.dumps({"kind": "openvino", "names": ["a"], "preprocessing": {"image_size": 96}})
    (tmp_path / "m.metadata.yaml").write_text(f"names: {{0: a}}\nimgsz: [96, 96]\nvisionlora: '{card}'\n")
    assert vl.inspect(tmp_path / "m.xml").bytes == 1006


def test_command_prints_json_for_programs(tmp_path, capsys) -> None:
    path = write_detector(tmp_path / "model.onnx")
    assert main(["inspect", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["kind"], printed["card"]["nms"], printed["path"]) == ("onnx", True, str(path))
    assert main(["inspect", str(path)]) == 0
    assert "  image_size: 64\n" in capsys.readouterr().out
