"""Signatures of manifests: ed25519, by the `cryptography` package, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionlora.errors import ModelError, UsageError


def sign(content: bytes, key: Path | str) -> bytes:
    """Return the 64 bytes of the signature of `content`.

    Args:
        content: what to sign.
        key: file of an ed25519 private key (PEM, without a password), as `openssl genpkey -algorithm ed25519` writes.

    Raises:
        UsageError: `cryptography` is not installed, or the file holds no such key.
    """
    ed25519, serialization = _libraries()
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{key}: expected an ed25519 private key (PEM) without a password: {error}") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{key}: expected an ed25519 private key, got {type(private).__name__}")
    return private.sign(content)


def check_signature(content: bytes, signature: bytes | None, key: Path | str, where: str) -> None:
    """Refuse content that the owner of a key has not signed.

    Args:
        content: what was signed.
        signature: 64 bytes; None where there is none.
        key: file of the ed25519 public key (PEM), as `openssl pkey -pubout` writes.
        where: what the content belongs to, for the message.

    Raises:
        ModelError: there is no signature, or it is not the key's.
        UsageError: `cryptography` is not installed, or the file holds no such key.
    """
    ed25519, serialization = _libraries()
    from cryptography.exceptions import InvalidSignature

    try:
        public = serialization.load_pem_public_key(_read(key))
    except ValueError as error:
        raise UsageError(f"{key}: expected an ed25519 public key (PEM): {error}") from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise UsageError(f"{key}: expected an ed25519 public key, got {type(public).__name__}")
    if signature is None:
        raise ModelError(f"{where}: expected a signed bundle, got one without manifest.sig; it is not used")
    try:
        public.verify(signature, content)
    except InvalidSignature as error:
        raise ModelError(f"{where}: the signature is not that of {key}; the bundle is not used") from error


def _libraries() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise UsageError("signatures need the package cryptography: pip install cryptography") from error
    return ed25519, serialization


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
