"""Opening a bundle: nothing is used, or written, before every byte is known to be what its maker wrote."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.bundling.bundle import write_folder
from visionlora.bundling.manifest import MANIFEST, SIGNATURE, Manifest, is_plain_name, read_manifest
from visionlora.bundling.signing import check_signature
from visionlora.errors import ModelError
from visionlora.files import refuse_existing
from visionlora.runtime import Detector, OnnxNetwork

LARGEST = 1 << 30
"""Bytes that all files of a bundle may have together."""
MOST = 64
"""How many files a bundle may have."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose content was checked, in memory.

    Attributes:
        path: the folder or .zip.
        manifest: what it says about itself.
        files: name -> bytes.
        signed: whether its signature was checked against a key.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]
    signed: bool

    def detector(self, **options: Any) -> Detector:
        """Return the detector in the bundle; options are those of `OnnxNetwork` (providers, threads).

        Raises:
            ModelError: the model cannot be loaded.
        """
        name = self.manifest.model
        network = OnnxNetwork(self.path / name, content=self.files[name], **options)
        return Detector(network, confidence=self.manifest.thresholds)


def open_bundle(path: Path | str, *, key: Path | str | None = None) -> Bundle:
    """Read a bundle and check it: hashes of all files, and the signature if a public key is given.

    Args:
        path: the folder or .zip.
        key: the maker's ed25519 public key (PEM); a bundle that it did not sign is refused.

    Raises:
        ModelError: the bundle is missing, broken, tampered with, unsigned or too large.
        UsageError: the key cannot be used.

    Example:
        >>> import visionlora as vl
        >>> vl.open_bundle("line3.zip", key="public.pem").detector()  # doctest: +SKIP
    """
    path = Path(path)
    files = _read_folder(path) if path.is_dir() else _read_zip(path)
    if MANIFEST not in files:
        raise ModelError(f"{path}: expected a bundle, found no {MANIFEST}")
    if key is not None:  # before anything that it says is believed
        check_signature(files[MANIFEST], _signature(files.get(SIGNATURE), path), key, str(path))
    manifest = read_manifest(files[MANIFEST], str(path))
    problems = [f"{name} is not listed" for name in files.keys() - manifest.files.keys() - {MANIFEST, SIGNATURE}]
    for name, entry in manifest.files.items():
        if name not in files:
            problems.append(f"{name} is missing")
        elif hashlib.sha256(files[name]).hexdigest() != entry["sha256"]:
            problems.append(f"{name} is not what its maker wrote")
    if problems:
        raise ModelError(f"{path}: {'; '.join(sorted(problems))}; the bundle is not used")
    return Bundle(path, manifest, files, key is not None)


def unbundle(path: Path | str, out: Path | str, *, key: Path | str | None = None, overwrite: bool = False) -> Bundle:
    """Check a bundle and write its files into a folder; an earlier one is replaced as a whole, or not at all.

    Args:
        path: the .zip, or a folder.
        out: the folder to write.
        key: the maker's ed25519 public key (PEM); a bundle that it did not sign is refused.
        overwrite: replace an existing folder.

    Raises:
        ModelError, UsageError: as `open_bundle`; nothing is written.
        OutputError: `out` exists, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.unbundle("line3.zip", "/opt/detector", key="public.pem")  # doctest: +SKIP
    """
    out = refuse_existing(out, overwrite=overwrite)
    opened = open_bundle(path, key=key)
    write_folder(opened.files, out)
    return opened


def _read_folder(path: Path) -> dict[str, bytes]:
    try:
        listed = sorted(file for file in path.iterdir() if file.name != "__pycache__")
        _check_amount(path, [file.name for file in listed], sum(file.lstat().st_size for file in listed))
        odd = [file.name for file in listed if file.is_symlink() or not file.is_file()]
        if odd:
            raise ModelError(f"{path}: expected plain files, got {odd[0]!r}; the bundle is not used")
        return {file.name: file.read_bytes() for file in listed}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_zip(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_amount(path, [entry.filename for entry in entries], sum(entry.file_size for entry in entries))
            for entry in entries:
                if stat.S_ISLNK(entry.external_attr >> 16) or entry.filename in files or entry.flag_bits & 1:
                    raise ModelError(
                        f"{path}: {entry.filename!r} is a link, encrypted, or there twice; the bundle is not used"
                    )
                with archive.open(entry) as file:
                    files[entry.filename] = file.read(entry.file_size + 1)  # no more than the entry admits to
                if len(files[entry.filename]) != entry.file_size:
                    raise ModelError(f"{path}: {entry.filename!r} lies about its size; the bundle is not used")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: expected a bundle (.zip), cannot read it: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return files


def _check_amount(path: Path, names: list[str], size: int) -> None:
    odd = [name for name in names if not is_plain_name(name)]
    if odd:
        raise ModelError(f"{path}: expected plain file names, got {odd[0]!r:.120}; the bundle is not used")
    if len(names) > MOST or size > LARGEST:
        raise ModelError(
            f"{path}: expected at most {MOST} files of {LARGEST} bytes together, got {len(names)} of {size}"
        )


def _signature(text: bytes | None, path: Path) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise ModelError(f"{path}: {SIGNATURE} is broken: {error}") from error
