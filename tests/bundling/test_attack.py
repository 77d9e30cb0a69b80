"""What lies beside a bundle's files does not run, and nothing of a bundle is used before its signature is checked."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.bundling.signing import sign
from visionlora.errors import ModelError

PLANTED = "import os, pathlib; pathlib.Path(os.environ['RAN']).write_text(__name__)\nraise ImportError\n"
LIBRARIES = ("cv2", "numpy", "__future__", "argparse", "json", "hashlib", "pathlib", "onnxruntime", "cryptography")


def self_test(folder: Path, *arguments: object, ran: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start the runner as the documentation says, but without -I."""
    command = [sys.executable, str(folder / "detect.py"), "--self-test", *map(str, arguments)]
    env = {**os.environ, "RAN": str(ran)}
    env.pop("PYTHONPATH", None)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cwd)


def test_planted_library_does_not_run_and_is_told(tiny, keys, tmp_path) -> None:
    for name in LIBRARIES:
        (tiny / f"{name}.py").write_text(PLANTED)
    for cwd in (tiny, tmp_path):
        done = self_test(tiny, "--key", keys[1], ran=tmp_path / "ran", cwd=cwd)
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            f"{name}.py: not of this bundle; move it away" for name in sorted(LIBRARIES)
        ]
    with pytest.raises(ModelError, match=r"cv2\.py is not listed"):
        vl.open_bundle(tiny, key=keys[1])


def test_planted_bytecode_is_refused(tiny, keys, tmp_path) -> None:
    (tmp_path / "evil.py").write_text(PLANTED)
    cache = Path(py_compile.compile(str(tmp_path / "evil.py"), invalidation_mode=py_compile.PycInvalidationMode(2)))
    (tiny / "__pycache__").mkdir()
    (tiny / "__pycache__" / f"detect.{sys.implementation.cache_tag}.pyc").write_bytes(cache.read_bytes())
    done = self_test(tiny, "--key", keys[1], ran=tmp_path / "ran")
    assert done.stdout == "__pycache__: not of this bundle; move it away\n" and not (tmp_path / "ran").exists()
    with pytest.raises(ModelError, match="expected plain files, got '__pycache__'; the bundle is not used"):
        vl.open_bundle(tiny, key=keys[1])


def test_runner_kept_elsewhere_tries_a_bundle_whose_own_runner_lies(tiny, tiny_bundle, keys, tmp_path) -> None:
    (tiny / "detect.py").write_text("print('OK')")
    assert self_test(tiny, "--key", keys[1], ran=tmp_path / "ran").stdout == "OK\n"
    done = self_test(tiny_bundle, tiny, "--key", keys[1], ran=tmp_path / "ran")
    assert done.stdout == "detect.py: not what its maker wrote; copy the bundle again\n" and done.returncode == 1


def test_self_test_asks_for_the_signature_first(tiny, keys, tmp_path) -> None:
    (tiny / "manifest.json").write_text("no JSON at all")
    (tiny / "more.txt").write_text("")
    done = self_test(tiny, "--key", keys[1], ran=tmp_path / "ran")
    assert done.stdout == f"manifest.json: not signed by {keys[1]}\n" and done.returncode == 1


def test_nothing_is_unpacked_before_the_signature_is_checked(tiny, keys, tmp_path, monkeypatch) -> None:
    manifest = (tiny / "manifest.json").read_bytes()
    (tiny / "manifest.json").write_bytes(manifest.replace(b"AGPL", b"GPL-"))
    archive, opened = tmp_path / "line.zip", []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in tiny.iterdir():
            file.write(path, path.name)
    real = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, entry, *more: (opened.append(entry.filename), real(self, entry, *more))[1]
    )
    with pytest.raises(ModelError, match="signature is not that of"):
        vl.unbundle(archive, tmp_path / "out", key=keys[1])
    assert opened == ["manifest.json", "manifest.sig"]


def test_no_more_of_a_file_is_read_than_the_manifest_lists(tiny, tmp_path, monkeypatch) -> None:
    archive = tmp_path / "line.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in tiny.iterdir():
            file.writestr(path.name, bytes(40 << 20) if path.name == "selftest.png" else path.read_bytes())
    most, real = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: (most.append(n), real(self, n))[1])
    with pytest.raises(ModelError, match=r"selftest\.png is not what its maker wrote"):
        vl.open_bundle(archive)
    assert max(most) < 2 << 20 and min(most) > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", ["pit", "scratch", "inclusion"]),
        ("kind", "int8"),
        (
            "preprocessing",
            {"image_size": 32, "letterbox": "square", "padding": 114, "channels": "RGB", "scale": "1/255"},
        ),
    ],
)
def test_manifest_that_says_another_thing_than_the_model_is_refused(
    field, value, tiny, rewrite, keys, tmp_path
) -> None:
    rewrite(tiny, **{field: value})
    with pytest.raises(ModelError, match=f"says of the model: {'classes' if field == 'names' else field} "):
        vl.unbundle(tiny, tmp_path / "out", key=keys[1])
    assert not (tmp_path / "out").exists()


def test_model_of_another_maker_is_refused(tiny, rewrite, keys) -> None:
    import hashlib

    write_detector(tiny / "model.onnx", properties={"names": "{0: 'a', 1: 'b', 2: 'c'}", "task": "detect"})
    files = json.loads((tiny / "manifest.json").read_bytes())["files"]
    model = (tiny / "model.onnx").read_bytes()
    files["model.onnx"] = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    rewrite(tiny, files=files)
    with pytest.raises(ModelError, match="says of the model"):
        vl.open_bundle(tiny, key=keys[1])


@pytest.mark.parametrize(
    "change",
    [
        {"names": [["scratch"], "pit", "inclusion"]},
        {"names": ["\ud800", "pit", "inclusion"]},
        {"names": {"0": "scratch"}},
        {"model": ["model.onnx"]},
        {"files": []},
        {"files": {"model.onnx": {"sha256": "0", "bytes": 1}}},
        {"files": {"model.onnx": {"sha256": "0" * 64, "bytes": -1}}},
        {"thresholds": [0.5]},
        {"thresholds": ["high", 0.5, 0.5]},
        {"thresholds": [float("nan"), 0.5, 0.5]},
        {"selftest": None},
        {"created": 5},
        {"created": "tomorrow"},
        {"parents": {"base": 1}},
        {"task": 5},
        {"task_settings": {"keypoints": "many"}},
    ],
    ids=str,
)
def test_manifest_of_wrong_types_is_refused(change, tiny, keys) -> None:
    content = json.dumps(json.loads((tiny / "manifest.json").read_bytes()) | change).encode()
    (tiny / "manifest.json").write_bytes(content)
    (tiny / "manifest.sig").write_text(sign(content, keys[0]).hex())
    with pytest.raises(ModelError, match=r"manifest\.json is broken"):
        vl.open_bundle(tiny, key=keys[1])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_and_encryption_are_refused_by_name(method, tiny, tmp_path) -> None:
    archive = tmp_path / "line.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(tiny.iterdir()):
            file.write(path, path.name, method if path.name == "model.onnx" else zipfile.ZIP_STORED)
    with pytest.raises(ModelError, match=r"'model\.onnx' is a link, encrypted, there twice, or neither stored"):
        vl.open_bundle(archive)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_refused_at_once(tiny, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ModelError, match=r"expected a bundle, a folder or \.zip"):
        vl.open_bundle(tmp_path / "pipe.zip")
    shutil.move(tmp_path / "pipe.zip", tiny / "more.png")
    with pytest.raises(ModelError, match=r"expected plain files, got 'more\.png'"):
        vl.open_bundle(tiny)
