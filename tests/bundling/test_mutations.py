"""Damaged bundles end in an error of ours, whatever is damaged."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

import visionlora as vl
from tests.mutants import damaged, damaged_json
from visionlora.errors import VisionLoraError


@pytest.fixture
def archive(tiny, tmp_path) -> Path:
    """Return the tiny bundle as a .zip."""
    path = tmp_path / "line.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(tiny.iterdir()):
            file.write(one, one.name)
    return path


def test_damaged_archives(archive, keys) -> None:
    whole, opened = vl.open_bundle(archive, key=keys[1]), 0
    for mutant in damaged(archive.read_bytes(), 420):
        archive.write_bytes(mutant)
        with suppress(VisionLoraError):
            assert dict(vl.open_bundle(archive, key=keys[1]).files) == dict(whole.files)  # a time or a comment
            opened += 1
    assert opened < 100


def test_damaged_manifests(tiny) -> None:
    manifest = json.loads((tiny / "manifest.json").read_bytes())
    for mutant in (*damaged_json(manifest, 250), *damaged((tiny / "manifest.json").read_bytes(), 150)):
        (tiny / "manifest.json").write_bytes(mutant)
        with suppress(VisionLoraError):
            assert vl.open_bundle(tiny).manifest.to_json()


def test_damaged_signatures(tiny, keys) -> None:
    whole = (tiny / "manifest.sig").read_bytes()
    for mutant in damaged(whole, 150):
        (tiny / "manifest.sig").write_bytes(mutant)
        with suppress(VisionLoraError):
            vl.open_bundle(tiny, key=keys[1])
            assert bytes.fromhex(mutant.decode()) == bytes.fromhex(whole.decode())


def test_damaged_keys(tiny, keys, tmp_path) -> None:
    for number, key in enumerate(keys):
        for mutant in damaged(key.read_bytes(), 100):
            (tmp_path / "key.pem").write_bytes(mutant)
            with suppress(VisionLoraError):
                if number:
                    vl.open_bundle(tiny, key=tmp_path / "key.pem")
                else:
                    vl.bundling.signing.sign(b"content", tmp_path / "key.pem")


def test_damaged_manifests_before_the_runner(tiny, monkeypatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("detect", tiny / "detect.py")
    assert spec is not None and spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(runner)
    monkeypatch.setattr(sys, "argv", ["detect.py", "--self-test", str(tiny)])
    manifest = json.loads((tiny / "manifest.json").read_bytes())
    for mutant in (*damaged_json(manifest, 300), *damaged((tiny / "manifest.json").read_bytes(), 100)):
        (tiny / "manifest.json").write_bytes(mutant)
        assert runner.main() in (0, 1)
        told = capsys.readouterr()
        assert told.out or told.err.startswith("error: ")
