"""A bundle's folder: it changes as a whole, and nothing goes that no bundle has written.

A new folder is written beside, as `.NAME.new`; the one before becomes `.NAME.old`, the new one gets the name, and what
was before is removed. Whoever is killed in the middle leaves one of the two under its name, or a moment long none: the
next call puts the old one back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from visionlora.bundling.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest
from visionlora.errors import ModelError, OutputError
from visionlora.files import in_turn, refuse_existing, sync

_CACHE = "__pycache__"
LARGEST_MANIFEST = 1 << 20  # bytes


def write_folder(files: Mapping[str, bytes], out: Path, *, overwrite: bool = False, downgrade: bool = False) -> None:
    """Write a bundle's folder; an earlier one is replaced as a whole, or not at all.

    Args:
        files: name -> bytes, the manifest among them.
        out: the folder; where it is a link, the folder that it leads to.
        overwrite: replace an earlier bundle.
        downgrade: even one that is newer.

    Raises:
        OutputError: it cannot be written, or `out` exists and is no bundle, holds a file that its manifest does not
            list, is newer, or `overwrite` is false.
    """
    out = Path(os.path.realpath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(out.parent):
            _repair(out)
            earlier = check_replaceable(out, overwrite=overwrite)
            if earlier is not None and not downgrade:
                _refuse_older(read_manifest(files[MANIFEST], str(out)), earlier, out)
            _replace(files, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


def repair(out: Path) -> None:
    """Put the bundle back whose replacement was killed in the middle, and remove what that left; else do nothing.

    Raises:
        OutputError: it cannot be put back, or a file that no bundle has written is in the way.
    """
    out = Path(os.path.realpath(out))
    try:
        if any(path.exists() for path in _beside(out)):
            with in_turn(out.parent):
                _repair(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be put back as it was: {error.strerror or error}") from error


def check_replaceable(out: Path, *, overwrite: bool) -> Manifest | None:
    """Refuse to write where there is anything that no bundle has written; return the manifest of the bundle there.

    Raises:
        OutputError: `out` exists and `overwrite` is false; or it is a file, or a folder with anything else in it.
    """
    refuse_existing(out, overwrite=overwrite)
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputError(f"{out}: expected the folder of a bundle to replace, got a file; choose another --out")
    return _check_own(out)


def _check_own(folder: Path) -> Manifest | None:
    """Return a folder's manifest, None in an empty one.

    Raises:
        OutputError: the folder is no bundle, or holds more than its manifest lists.
    """
    found = {path.name: path for path in folder.iterdir()}
    if not found:
        return None
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = read_manifest(file.read(LARGEST_MANIFEST), str(folder))
    except (OSError, ModelError) as error:
        raise OutputError(
            f"{folder}: expected the folder of a bundle to replace, its {MANIFEST} is missing or broken; nothing there "
            "is changed: choose another --out, or move it away"
        ) from error
    strange = [name for name, path in found.items() if not _is_ours(path, manifest)]
    if strange:
        shown = ", ".join(map(repr, sorted(strange)[:10]))
        raise OutputError(
            f"{folder}: holds {len(strange)} files that no bundle has put there: {shown}; nothing is changed: move "
            "them away, or choose another --out"
        )
    return manifest


def _is_ours(path: Path, manifest: Manifest) -> bool:
    if path.name == _CACHE and not path.is_symlink() and path.is_dir():  # Python's, of the runner
        runners = tuple(f"{name[:-3]}." for name in manifest.files if name.endswith(".py"))
        return all(file.name.startswith(runners) and file.suffix == ".pyc" for file in path.iterdir())
    return path.name in {MANIFEST, SIGNATURE, *manifest.files} and (path.is_symlink() or not path.is_dir())


def _beside(out: Path) -> tuple[Path, Path]:
    return out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")


def _repair(out: Path) -> None:
    staged, replaced = _beside(out)
    if replaced.exists() and not out.exists():
        os.rename(replaced, out)
        sync(out.parent)
    _remove(staged)
    _remove(replaced)


def _replace(files: Mapping[str, bytes], out: Path) -> None:
    staged, replaced = _beside(out)
    try:
        _stage(files, staged)
        if out.exists():
            os.rename(out, replaced)
        try:
            os.rename(staged, out)
        except OSError:
            if replaced.exists():
                os.rename(replaced, out)
            raise
    except OSError:
        with suppress(OSError):
            _remove(staged)
        raise
    sync(out.parent)
    _remove(replaced)


def _refuse_older(new: Manifest, earlier: Manifest, out: Path) -> None:
    if new.created < earlier.created:  # of one form, so that text sorts as time does
        raise OutputError(
            f"{out}: holds a bundle of {earlier.created}, this one is older, of {new.created}; nothing is changed: "
            "pass --downgrade if that is what you want"
        )


def _stage(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a new folder, the manifest first: it says later which of them are ours."""
    folder.mkdir()
    for name in sorted(files, key=lambda name: (name != MANIFEST, name)):
        (folder / name).write_bytes(files[name])
        sync(folder / name)
    sync(folder)


def _remove(folder: Path) -> None:
    """Remove what a bundle has written in a folder, and then the folder.

    Raises:
        OutputError: it holds something else.
    """
    if not folder.exists():
        return
    if [path.name for path in folder.iterdir()] != [MANIFEST]:  # alone it may be half written
        _check_own(folder)
    cached = folder / _CACHE
    for path in (*(cached.iterdir() if cached.is_dir() else ()), *folder.iterdir()):
        if path.name not in (_CACHE, MANIFEST):
            path.unlink()
    if cached.is_dir():
        cached.rmdir()
    (folder / MANIFEST).unlink(missing_ok=True)  # last: it says which files are ours
    folder.rmdir()
