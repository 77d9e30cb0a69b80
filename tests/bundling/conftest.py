"""What the tests of bundles share: keys, and a signed bundle of a tiny detector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.bundling.signing import sign


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    """Return a private and a public key."""
    folder, private = tmp_path_factory.mktemp("keys"), Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(secret)
    (folder / "public.pem").write_bytes(public)
    return folder / "key.pem", folder / "public.pem"


@pytest.fixture(scope="session")
def tiny_bundle(keys, tmp_path_factory) -> Path:
    """Return a signed bundle of a tiny detector, as a folder."""
    folder = tmp_path_factory.mktemp("tiny")
    return vl.bundle(write_detector(folder / "model.onnx"), folder / "line", key=keys[0]).path


@pytest.fixture
def tiny(tiny_bundle, tmp_path) -> Path:
    """Return a copy of it that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "line"))


@pytest.fixture
def rewrite(keys) -> Callable[..., Path]:
    """Return a function that changes fields of a bundle's manifest, and signs it again."""

    def change(folder: Path, **fields: object) -> Path:
        manifest = json.loads((folder / "manifest.json").read_bytes()) | fields
        content = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.sig").write_text(sign(content, keys[0]).hex())
        return folder

    return change
