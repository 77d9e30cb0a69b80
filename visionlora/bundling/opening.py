"""Opening a bundle: nothing is used, or written, before every byte is known to be what its maker wrote."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from visionlora.bundling.folder import LARGEST_MANIFEST, check_replaceable, repair, write_folder
from visionlora.bundling.manifest import MANIFEST, SIGNATURE, Manifest, is_plain_name, read_manifest
from visionlora.bundling.signing import check_signature
from visionlora.errors import ModelError
from visionlora.runtime import Detector, OnnxNetwork
from visionlora.tasks import task_of

LARGEST = 1 << 30
"""Bytes that all files of a bundle may have together."""
MOST = 64
"""How many files a bundle may have."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
)


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
        return Detector(network, confidence=self.manifest.thresholds if network.task.boxes else None)


@dataclass(frozen=True)
class _Member:
    """A file of a bundle that nobody has read yet: its size in bytes, as the folder or archive says, and its bytes."""

    size: int
    open: Callable[[], Any]

    def read(self, most: int) -> bytes:
        """Return the content, or one byte more than `most`."""
        with self.open() as file:
            return file.read(most + 1)


def open_bundle(path: Path | str, *, key: Path | str | None = None) -> Bundle:
    """Read a bundle and check it: hashes of all files, and the signature if a public key is given.

    With a key the signature of the manifest is checked before it is read, and before anything else is unpacked. A
    folder whose replacement was interrupted is put back first.

    Args:
        path: the folder or .zip.
        key: the maker's ed25519 public key (PEM); a bundle that it did not sign is refused.

    Raises:
        ModelError: the bundle is missing, broken, tampered with, unsigned or too large, or its model is another than
            its manifest says.
        UsageError: the key cannot be used.

    Example:
        >>> import visionlora as vl
        >>> vl.open_bundle("line3.zip", key="public.pem").detector()  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        repair(path)
    with _members(path) as members:
        if MANIFEST not in members:
            raise ModelError(f"{path}: expected a bundle, found no {MANIFEST}")
        files = {name: _read_small(path, name, members.pop(name)) for name in (MANIFEST, SIGNATURE) if name in members}
        if key is not None:  # before anything that it says is believed
            check_signature(files[MANIFEST], _signature(files.get(SIGNATURE), path), key, str(path))
        manifest = read_manifest(files[MANIFEST], str(path))
        files |= _listed(path, manifest, members)
    opened = Bundle(path, manifest, files, key is not None)
    _check_model(opened)
    return opened


def unbundle(
    path: Path | str,
    out: Path | str,
    *,
    key: Path | str | None = None,
    overwrite: bool = False,
    downgrade: bool = False,
) -> Bundle:
    """Check a bundle and write its files into a folder; an earlier one is replaced as a whole, or not at all.

    Args:
        path: the .zip, or a folder.
        out: the folder to write.
        key: the maker's ed25519 public key (PEM); a bundle that it did not sign is refused.
        overwrite: replace an earlier bundle; a folder that is none, or that holds a file which no bundle has put
            there, is refused.
        downgrade: replace even a bundle that was made later.

    Raises:
        ModelError, UsageError: as `open_bundle`; nothing is written.
        OutputError: `out` exists, is no bundle or a newer one, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.unbundle("line3.zip", "/opt/detector", key="public.pem")  # doctest: +SKIP
    """
    out = Path(out)
    repair(out)
    check_replaceable(out, overwrite=overwrite)
    opened = open_bundle(path, key=key)
    write_folder(opened.files, out, overwrite=overwrite, downgrade=downgrade)
    return opened


def _read_small(path: Path, name: str, member: _Member) -> bytes:
    content = member.read(LARGEST_MANIFEST)
    if len(content) > LARGEST_MANIFEST:
        raise ModelError(f"{path}: {name} is broken: expected at most {LARGEST_MANIFEST} bytes")
    return content


def _listed(path: Path, manifest: Manifest, members: Mapping[str, _Member]) -> dict[str, bytes]:
    """Read the files that a manifest lists, no more of each than it lists.

    Raises:
        ModelError: one is missing, is another, or is not listed.
    """
    problems = [f"{name} is not listed" for name in members.keys() - manifest.files.keys()]
    files = {}
    for name, entry in manifest.files.items():
        if name not in members:
            problems.append(f"{name} is missing")
            continue
        files[name] = members[name].read(entry.bytes) if members[name].size == entry.bytes else b""
        if len(files[name]) != entry.bytes or hashlib.sha256(files[name]).hexdigest() != entry.sha256:
            problems.append(f"{name} is not what its maker wrote")
    if problems:
        raise ModelError(f"{path}: {'; '.join(sorted(problems))}; the bundle is not used")
    return files


def _check_model(opened: Bundle) -> None:
    """Compare what the manifest says of the model with what the model says of itself.

    Raises:
        ModelError: they differ, or the model cannot be loaded.
    """
    manifest = opened.manifest
    network = OnnxNetwork(opened.path / manifest.model, content=opened.files[manifest.model], threads=1)
    card = network.metadata or {}
    for what, said, got in (
        ("classes", list(manifest.names), list(network.names)),
        ("kind", manifest.kind, card.get("kind")),
        ("preprocessing", dict(manifest.preprocessing), card.get("preprocessing")),
        ("task", task_of(manifest.task, opened.path, manifest.task_settings), network.task),
    ):
        if said != got:
            raise ModelError(
                f"{opened.path}: {MANIFEST} says of the model: {what} {said!s:.120}, the model itself: {got!s:.120}; "
                "the bundle is not used"
            )


@contextmanager
def _members(path: Path) -> Iterator[dict[str, _Member]]:
    """Yield the files of a folder or .zip by name, unread.

    Raises:
        ModelError: it cannot be read, or holds what no bundle has; this holds for what is read inside, too.
    """
    try:
        if path.is_dir():
            yield _of_folder(path)
            return
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: expected a bundle, a folder or .zip, got neither")
        with zipfile.ZipFile(path) as archive:
            yield _of_zip(path, archive)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _BROKEN_ZIP as error:
        raise ModelError(f"{path}: expected a bundle (.zip), cannot read it: {error}") from error


def _of_folder(path: Path) -> dict[str, _Member]:
    found = {file.name: file for file in sorted(path.iterdir())}
    _check_amount(path, list(found), sum(file.lstat().st_size for file in found.values()))
    odd = [name for name, file in found.items() if file.is_symlink() or not file.is_file()]
    if odd:
        raise ModelError(f"{path}: expected plain files, got {odd[0]!r}; the bundle is not used: remove that")
    return {name: _Member(file.stat().st_size, partial(open, file, "rb")) for name, file in found.items()}


def _of_zip(path: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    entries = archive.infolist()
    _check_amount(path, [entry.filename for entry in entries], sum(entry.file_size for entry in entries))
    members: dict[str, _Member] = {}
    for entry in entries:
        name = entry.filename
        link, encrypted = stat.S_ISLNK(entry.external_attr >> 16), entry.flag_bits & 1
        if link or encrypted or name in members or entry.compress_type not in _COMPRESSIONS:
            raise ModelError(
                f"{path}: {name!r} is a link, encrypted, there twice, or neither stored nor deflated; the bundle is "
                "not used"
            )
        members[name] = _Member(entry.file_size, partial(archive.open, entry))
    return members


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
