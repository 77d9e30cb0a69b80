"""Put downloaded images and labels into a data set's folder, and let them stay only if the counts are right."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visionlora.data.dataset import Dataset
from visionlora.data.listing import pictures_below
from visionlora.data.loading import load_dataset
from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError, OutputError, VisionLoraError
from visionlora.files import refuse_existing
from visionlora.tasks import DETECT
from visionlora.vision.preprocess import IMAGE_SUFFIXES

_FOLDERS = ("images", "labels")


@dataclass(frozen=True)
class SplitCounts:
    """What a split must hold: images, and objects of each class by name."""

    images: int
    objects: Mapping[str, int]


@dataclass(frozen=True)
class PreparedImage:
    """An image on its way into a data set's folder: file, split, new name without suffix, label text."""

    source: Path
    split: str
    name: str
    label: str


def images_by_name(folder: Path | str) -> dict[str, Path]:
    """Return the image files anywhere below a folder, by name without suffix. Hidden files do not count.

    Raises:
        DataError: the folder is missing, has no images, or two images of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: expected the folder of the unpacked download, got no folder")
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(map(Path, pictures_below(folder))):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            problems.append(f"{shown(path)}: expected one image of this name, got another, {shown(found[path.stem])}")
        found[path.stem] = path
    raise_problems(problems)
    if not found:
        raise DataError(f"{shown(folder)}: expected images, got none; unpack the download first")
    return found


def install(
    images: Sequence[PreparedImage],
    folder: Path | str,
    *,
    data_yaml: Path,
    expected: Mapping[str, SplitCounts],
    overwrite: bool = False,
) -> Dataset:
    """Copy images and write labels below `folder`, as `images/<split>` and `labels/<split>` beside the data.yaml.

    They appear only after the data set was loaded and counted, so a failed run leaves an earlier one in place.

    Args:
        images: what to copy.
        folder: the data set's folder.
        data_yaml: copied into `folder` unless it lies there.
        expected: the counts that each split must have.
        overwrite: replace images and labels from before.

    Raises:
        DataError: the images or labels are wrong, or their counts differ; all differences are listed.
        OutputError: images or labels exist already, or cannot be written.
    """
    folder = Path(folder)
    for name in _FOLDERS:
        refuse_existing(folder / name, overwrite=overwrite)
    partial = folder / f".prepare-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        shutil.copyfile(data_yaml, partial / "data.yaml")
        for image in images:
            _place(image, partial)
        try:
            dataset = load_dataset(partial / "data.yaml", splits=tuple(expected), task=DETECT)
        except DataError as error:  # the folder that it names is gone when the user reads this
            raise DataError(str(error).replace(f"{shown(partial)}/", "")) from error
        differences = count_differences(dataset, expected)
        raise_problems(differences, most=len(differences))
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(partial / name, folder / name)
        if not (folder / "data.yaml").exists():
            os.replace(partial / "data.yaml", folder / "data.yaml")
    except OSError as error:
        raise OutputError(f"{shown(folder)}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_dataset(folder / "data.yaml", splits=tuple(expected), task=DETECT)


def count_differences(dataset: Dataset, expected: Mapping[str, SplitCounts]) -> list[str]:
    """Return one line for each count of a data set that is not as expected.

    Raises:
        DataError: an expected split was not loaded.
    """
    differences = []
    for split, counts in expected.items():
        got = {"images": len(dataset.split(split)), **_objects(dataset.count_objects(split))}
        for what, number in {"images": counts.images, **_objects(counts.objects)}.items():
            if got.get(what, 0) != number:
                differences.append(f"{split}: expected {number} {what}, got {got.get(what, 0)}")
    return differences


def _objects(counts: Mapping[str, int]) -> dict[str, int]:
    """Name the counts so that a class called 'images' is not taken for the images."""
    return {f"objects of class {name!r}": count for name, count in counts.items()}


def _place(image: PreparedImage, folder: Path) -> None:
    """Copy one image and write its labels."""
    target = folder / "images" / image.split / (image.name + image.source.suffix.lower())
    label = folder / "labels" / image.split / f"{image.name}.txt"
    for path in (target, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.source, target)
    label.write_text(image.label, encoding="utf-8")


def run_prepare(
    collect: Callable[[Path], Sequence[PreparedImage]],
    folder: Path,
    *,
    expected: Mapping[str, SplitCounts],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a data set's prepare script: read the command line, collect, install, say what is there.

    Args:
        collect: turns the folder of a download into the images to install.
        folder: the data set's folder, with its data.yaml.
        expected: the counts that each split must have.
        arguments: the command line; by default that of the process.

    Returns:
        The exit code: 0, or 1 after an error message.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=f"Prepare the data set {folder.name} from a download."
    )
    parser.add_argument("download", type=Path, help="folder of the unpacked download")
    parser.add_argument("--out", type=Path, default=folder, help="where images/ and labels/ go (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace images/ and labels/ that are there")
    options = parser.parse_args(arguments)
    try:
        dataset = install(
            collect(options.download),
            options.out,
            data_yaml=folder / "data.yaml",
            expected=expected,
            overwrite=options.overwrite,
        )
    except VisionLoraError as error:
        print(error, file=sys.stderr)
        return 1
    for split in expected:
        objects = sum(dataset.count_objects(split).values())
        print(f"{split}: {len(dataset.split(split))} images, {objects} objects, as expected")
    return 0
