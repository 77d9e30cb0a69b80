"""Files of a data set that nobody reads, labels without pictures, and names that stand in each other's way."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from visionlora.checking.findings import Finding
from visionlora.checking.pictures import Picture
from visionlora.data import shown

IGNORED_SUFFIXES = (
    *(".arw", ".cr2", ".eps", ".exr", ".gif", ".hdr", ".jfif", ".jpe", ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm"),
    *(".psd", ".raw", ".svg", ".tga"),
)
"""Of pictures that neither visionlora nor Ultralytics reads: they are left out of a folder without a word."""
_FIRST_BYTES = 4096


def folder_findings(pictures: Sequence[Picture], sources: Sequence[Path]) -> list[Finding]:
    """Return what lies in the folders of a data set of label files, and is doubtful.

    Args:
        pictures: of all splits.
        sources: the folders and list files of all splits.
    """
    return [*_unlabelled(pictures), *_orphans(pictures), *_ignored(sources), *name_findings(pictures)]


def name_findings(pictures: Sequence[Picture]) -> list[Finding]:
    """Return what is doubtful about the names of pictures."""
    suffixes = Counter(picture.path.suffix for picture in pictures)
    spelled: dict[str, list[str]] = defaultdict(list)
    for suffix in suffixes:
        spelled[suffix.lower()].append(suffix)
    mixed = [sorted(written) for written in spelled.values() if len(written) > 1]
    stems: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for picture in pictures:
        stems[str(picture.path.parent), picture.path.stem.lower()].add(picture.path)
    clashes = tuple(" = ".join(sorted(shown(path) for path in group)) for group in stems.values() if len(group) > 1)
    turned = tuple(shown(picture.path) for picture in pictures if picture.turned)
    findings = []
    for one in mixed:
        ways = ", ".join(f"{suffix} ({suffixes[suffix]})" for suffix in one)
        findings.append(Finding("note", "suffix", f"one suffix is written in several ways: {ways}"))
    if clashes:
        message = f"names that stand for several pictures, which share a label file: {len(clashes)}"
        findings.append(Finding("warning", "name", message, clashes))
    if turned:
        message = (
            f"{len(turned)} of {len(pictures)} pictures are turned by their EXIF tag: boxes count as drawn "
            "on the turned picture; look whether the labelling tool turned them too"
        )
        findings.append(Finding("warning", "EXIF", message, turned))
    return findings


def _unlabelled(pictures: Sequence[Picture]) -> list[Finding]:
    bare: dict[str, list[str]] = defaultdict(list)
    counts = Counter(picture.split for picture in pictures)
    for picture in pictures:
        if not picture.labelled:
            bare[picture.split].append(shown(picture.path))
    return [
        Finding(
            "warning",
            "no label file",
            f"{len(places)} of {counts[split]} pictures of {split} have no label file and count as background; "
            "an empty file says so",
            tuple(places),
        )
        for split, places in bare.items()
    ]


def _orphans(pictures: Sequence[Picture]) -> list[Finding]:
    """Return the label files that belong to no picture file, in the folders where labels of pictures lie."""
    expected = {os.fspath(picture.label) for picture in pictures}
    folders = {picture.label.parent: picture.path.parent for picture in pictures}
    orphans = []
    for labels, images in sorted(folders.items()):
        stems = {os.path.splitext(name)[0] for name in _names(images) if not name.endswith(".txt")}
        for name in sorted(_names(labels)):
            path = labels / name
            if name.endswith(".txt") and os.fspath(path) not in expected and name[:-4] not in stems and _labels(path):
                orphans.append(shown(path))
    if not orphans:
        return []
    return [Finding("warning", "no picture", f"label files without a picture: {len(orphans)}", tuple(orphans))]


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[0] != "."]
    except OSError:  # told where its pictures or labels are read
        return []


def _labels(path: Path) -> bool:
    """Whether a text begins like a label file, and not like a read-me or a list of classes."""
    try:
        with open(path, "rb") as file:
            words = file.read(_FIRST_BYTES).split(b"\n")[0].split()
        return not words or (len(words) >= 5 and all(float(word) is not None for word in words))
    except (OSError, ValueError):
        return False


def _ignored(sources: Sequence[Path]) -> list[Finding]:
    """Return the pictures in the folders that are left out because of their suffix."""
    ignored: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if not source.is_dir():
            continue
        for folder, folders, names in os.walk(source):
            folders[:] = [name for name in folders if name[0] != "."]
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if suffix in IGNORED_SUFFIXES and name[0] != ".":
                    ignored[suffix].append(shown(os.path.join(folder, name)))
    return [
        Finding(
            "warning",
            "ignored file",
            f"{suffix} files are read by nobody: {len(places)}; convert them to JPEG or PNG",
            tuple(sorted(places)),
        )
        for suffix, places in sorted(ignored.items())
    ]
