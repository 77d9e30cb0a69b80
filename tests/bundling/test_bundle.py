"""Bundles: the device says OK or what differs; what was tampered with is refused before anything is written or run."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import visionlora as vl
from visionlora.bundling import opening
from visionlora.errors import ModelError, OutputError, UsageError
from visionlora.vision.preprocess import read_image


@pytest.fixture(scope="module")
def folder(exported, keys, tmp_path_factory) -> Path:
    """Return a signed bundle as a folder."""
    return vl.bundle(exported.path, tmp_path_factory.mktemp("bundle") / "line", key=keys[0], latency=True).path


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """Return a copy of the bundle that a test may spoil."""
    target = tmp_path / "line"
    target.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return target


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the runner of a bundle, without torch and without visionlora."""
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'visionlora', 'onnx', 'cv2'))); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-B", "-c", code, str(folder / "detect.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_device_says_ok(folder, keys) -> None:
    assert run(folder, "--self-test").stdout == "OK\n"
    assert run(folder, "--self-test", "--key", keys[1]).stdout == "OK\n"


def test_manifest_says_what_is_in_it(folder, exported) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", manifest["created"])
    assert manifest["names"] == list(exported.names) and manifest["licence"] == "AGPL-3.0-only"
    assert set(manifest["files"]) == {"model.onnx", "detect.py", "requirements.txt", "selftest.png"}
    assert manifest["latency"]["ms"] > 0 and len(manifest["selftest"]["detections"]) >= 1
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["numpy", "onnxruntime", "pillow"]


def test_runner_finds_its_model_and_what_visionlora_finds(folder, surface, tmp_path) -> None:
    picture = next((surface.parent / "images" / "val").iterdir())
    found = json.loads(run(folder, "--source", picture, "--conf", "0.001").stdout)[0]["detections"]
    expected = vl.open_bundle(folder).detector().predict(read_image(picture), confidence=0.001)
    assert [one["class_id"] for one in found] == expected.class_ids.tolist() and found
    assert [one["score"] for one in found] == pytest.approx(expected.scores.tolist(), abs=1e-5)


def test_model_that_finds_other_things_is_told(copied) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["selftest"]["detections"][0]["score"] += 0.4
    manifest["selftest"]["detections"][-1]["box_xyxy"][0] += 500
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = run(copied, "--self-test")
    assert done.returncode == 1 and done.stdout.count("expected ") == 2 and "px off" in done.stdout


@pytest.mark.parametrize("name", ["model.onnx", "detect.py", "selftest.png", "requirements.txt"])
def test_changed_file_is_told_and_refused(name, copied, tmp_path) -> None:
    with (copied / name).open("ab") as file:
        file.write(b"\n")
    done = run(copied, "--self-test")
    assert done.returncode == 1 and done.stdout == f"{name}: not what its maker wrote; copy the bundle again\n"
    with pytest.raises(ModelError, match=f"{name} is not what its maker wrote; the bundle is not used"):
        vl.unbundle(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_added_files_are_refused(copied) -> None:
    (copied / "selftest.png").rename(copied / "other.png")
    with pytest.raises(ModelError, match=r"other\.png is not listed; selftest\.png is missing"):
        vl.open_bundle(copied)
    told = run(copied, "--self-test").stdout
    assert told == "other.png: not of this bundle; move it away\nselftest.png: missing\n"


def test_signature_is_checked_where_a_key_is_given(copied, keys, tmp_path) -> None:
    assert vl.open_bundle(copied, key=keys[1]).signed and not vl.open_bundle(copied).signed
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["thresholds"][0] = 0.9  # all hashes still right
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert not vl.open_bundle(copied).signed
    with pytest.raises(ModelError, match="signature is not that of"):
        vl.open_bundle(copied, key=keys[1])
    assert "not signed by" in run(copied, "--self-test", "--key", keys[1]).stdout
    (copied / "manifest.sig").unlink()
    with pytest.raises(ModelError, match=r"without manifest\.sig"):
        vl.open_bundle(copied, key=keys[1])


def test_wrong_keys_are_refused(exported, folder, keys, tmp_path) -> None:
    with pytest.raises(UsageError, match="expected an ed25519 private key"):
        vl.bundle(exported.path, tmp_path / "a.zip", key=keys[1])
    with pytest.raises(UsageError, match="expected an ed25519 public key"):
        vl.open_bundle(folder, key=keys[0])
    with pytest.raises(UsageError, match="cannot be read"):
        vl.open_bundle(folder, key=tmp_path / "absent.pem")


def test_zip_is_the_folder_and_depends_on_nothing_else(exported, keys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1738324800")
    one = vl.bundle(exported.path, tmp_path / "one.zip", key=keys[0]).path
    two = vl.bundle(exported.path, tmp_path / "two.zip", key=keys[0]).path
    assert one.read_bytes() == two.read_bytes()
    written = vl.unbundle(one, tmp_path / "out", key=keys[1])
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(written.files)
    assert run(tmp_path / "out", "--self-test").stdout == "OK\n"
    with pytest.raises(OutputError, match="exists already"):
        vl.unbundle(one, tmp_path / "out")
    (tmp_path / "out" / "old.txt").write_text("of the bundle before")
    with pytest.raises(OutputError, match=r"no bundle has put there: 'old\.txt'; nothing is changed"):
        vl.unbundle(one, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "old.txt").read_text() == "of the bundle before"
    (tmp_path / "out" / "old.txt").unlink()
    vl.unbundle(one, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zip", "out", "two.zip"]


def zip_of(path: Path, files: dict[str, bytes], *, link: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == link else 0o644 << 16
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "..\\evil", "C:evil", ".hidden", "con/../x", "", "a" * 200, "x."]
)
def test_names_that_lead_elsewhere_are_refused(name, folder, tmp_path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    evil = zip_of(tmp_path / "evil.zip", {**files, name: b"x"})
    with pytest.raises(ModelError, match="expected plain file names"):
        vl.unbundle(evil, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


def test_manifest_that_names_a_path_is_refused(copied) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"sha256": "0" * 64, "bytes": 1}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="is no file of the bundle"):
        vl.open_bundle(copied)
    assert run(copied, "--self-test").stdout == "../../etc/passwd: missing\n"


def test_links_are_refused(folder, copied, tmp_path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    with pytest.raises(ModelError, match="is a link"):
        vl.open_bundle(zip_of(tmp_path / "evil.zip", {**files, "link": b"/etc/passwd"}, link="link"))
    os.symlink("/etc/passwd", copied / "link")
    with pytest.raises(ModelError, match="expected plain files, got 'link'"):
        vl.open_bundle(copied)


def test_bombs_are_refused_without_being_unpacked(tmp_path) -> None:
    block = bytes(1 << 24)
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb", "w", force_zip64=True) as file,
    ):
        for _ in range((opening.LARGEST >> 24) + 1):
            file.write(block)
    assert path.stat().st_size < 4 << 20
    with pytest.raises(ModelError, match="expected at most"):
        vl.open_bundle(path)
    with pytest.raises(ModelError, match="expected at most"):
        vl.open_bundle(zip_of(tmp_path / "many.zip", {f"f{i}": b"" for i in range(opening.MOST + 1)}))


def test_entry_that_is_larger_than_it_says_is_refused(tmp_path) -> None:
    path = zip_of(tmp_path / "lie.zip", {"manifest.json": bytes(100_000)})
    content = path.read_bytes()
    size = (100_000).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(ModelError):
        vl.open_bundle(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b"\xff", b"[" * 100_000],
    ids=["empty", "list", "nothing", "later", "format alone", "no text", "deep"],
)
def test_broken_manifests_are_refused(content, copied) -> None:
    (copied / "manifest.json").write_bytes(content[:])
    with pytest.raises(ModelError, match=r"manifest\.json is broken|format 1"):
        vl.open_bundle(copied)
    done = run(copied, "--self-test")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_what_is_no_bundle_is_refused(tmp_path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    for path, message in ((tmp_path / "text.zip", "cannot read it"), (tmp_path / "no.zip", "cannot be read")):
        with pytest.raises(ModelError, match=message):
            vl.open_bundle(path)
    with pytest.raises(ModelError, match=r"found no manifest\.json"):
        vl.open_bundle(zip_of(tmp_path / "empty.zip", {}))


def test_own_picture_and_foreign_models(exported, surface, tmp_path) -> None:
    picture = next((surface.parent / "images" / "val").iterdir())
    made = vl.bundle(exported.path, tmp_path / "own", picture=picture)
    assert (read_image(made.path / "selftest.png") == read_image(picture)).all() and not made.signed
    with pytest.raises(UsageError, match="expected a picture"):
        vl.bundle(exported.path, tmp_path / "x", picture=surface)


@pytest.mark.parametrize("name", ["merged.pt", "adapter.safetensors", "model"])
def test_what_is_no_onnx_file_is_refused_with_what_to_do(name, tmp_path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=f"{name}: expected an ONNX file that .*; export the model first"):
        vl.bundle(tmp_path / name, tmp_path / "line")
