"""Writing generated pictures as a data set in Ultralytics layout."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from visionlora.demonstration.drawing import Picture
from visionlora.errors import DataError, OutputError, UsageError
from visionlora.files import atomic_output

Draw = Callable[[np.random.Generator, int], Picture]


def write_dataset(
    draw: Draw,
    names: Sequence[str],
    out: Path | str,
    *,
    counts: Mapping[str, int],
    size: int,
    seed: int,
    workers: int = 1,
) -> Path:
    """Draw pictures and write them as PNG files with YOLO labels and a data.yaml.

    Every picture has a generator of its own, made from the seed, its split and its number: so picture 7 is the same
    in a large set and in a small one, and whatever the number of workers.

    Args:
        draw: function of a generator and a size that returns a picture.
        names: class names in the order of the class ids.
        out: folder for `images/`, `labels/` and `data.yaml`; made if it is missing.
        counts: pictures per split, for example {"train": 200, "val": 50}; the splits must include train and val.
        size: side of the pictures in pixels.
        seed: a non-negative integer.
        workers: processes that draw; with more than one, `draw` must be a function that pickle can name.

    Returns:
        The path of the data.yaml, which is written last.

    Raises:
        OutputError: `images/` or `labels/` exists already, `data.yaml` exists with another content, or a file
            cannot be written.
        UsageError: a count, the size, the seed or the workers are out of range, or a split is missing.

    Example:
        >>> import tempfile
        >>> from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
        >>> folder = tempfile.mkdtemp()
        >>> write_dataset(draw_surface, SURFACE_NAMES, folder, counts={"train": 2, "val": 1}, size=96, seed=0).name
        'data.yaml'
    """
    _check(counts, size, seed, workers)
    out = Path(out)
    yaml_path, text = out / "data.yaml", data_yaml(names, counts)
    for kind in ("images", "labels"):
        if (out / kind).exists():
            raise OutputError(f"{out / kind}: exists already; remove it or choose another folder")
    if yaml_path.exists() and yaml_path.read_text() != text:
        raise OutputError(f"{yaml_path}: exists already with another content; choose another folder")
    staging = out / f".{os.getpid()}.partial"
    try:
        _write_pictures(draw, staging, counts, size=size, seed=seed, workers=workers)
        for kind in ("images", "labels"):
            (staging / kind).rename(out / kind)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    with atomic_output(yaml_path) as partial_path:
        partial_path.write_text(text)
    return yaml_path


def write_counted_dataset(
    draw: Draw,
    names: Sequence[str],
    out: Path | str,
    *,
    expected: Mapping[str, Mapping[str, int]],
    size: int,
    seed: int,
) -> Path:
    """Write a data set as `write_dataset` does, and keep it only if it holds what is expected.

    Args:
        draw, names, out, size, seed: as for `write_dataset`.
        expected: `images`, and boxes by class name, of each split, as `count_labels` counts them.

    Raises:
        DataError: the counts differ, as another version of numpy or OpenCV may draw otherwise; nothing is kept.
        OutputError, UsageError: as for `write_dataset`.
    """
    pictures = {split: counts["images"] for split, counts in expected.items()}
    path = write_dataset(draw, names, out, counts=pictures, size=size, seed=seed)
    found = count_labels(out, names)
    if found != expected:
        for kind in ("images", "labels"):
            shutil.rmtree(Path(out) / kind)
        raise DataError(
            f"{out}: expected {expected}, got {found}; another version of numpy or OpenCV may draw otherwise"
        )
    return path


def data_yaml(names: Sequence[str], splits: Sequence[str] | Mapping[str, int]) -> str:
    """Return the text of a data.yaml whose folders are relative to its own."""
    lines = [f"{split}: images/{split}" for split in sorted(splits)]
    return "\n".join([*lines, "names:", *(f"  {number}: {name}" for number, name in enumerate(names))]) + "\n"


def count_labels(out: Path | str, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return per split the number of images and of the boxes of each class, read back from the label files."""
    counts = {}
    for folder in sorted(path for path in (Path(out) / "labels").iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.txt"))
        ids = [int(line.split()[0]) for file in files for line in file.read_text().splitlines()]
        counts[folder.name] = {"images": len(files), **{name: ids.count(i) for i, name in enumerate(names)}}
    return counts


def _check(counts: Mapping[str, int], size: int, seed: int, workers: int) -> None:
    problems = [f"counts[{split!r}]: expected at least 1, got {n}" for split, n in counts.items() if n < 1]
    missing = [split for split in ("train", "val") if split not in counts]
    problems += [f"counts: expected the split {split!r}, got {sorted(counts)}" for split in missing]
    if size < 96:
        problems.append(f"size: expected at least 96 pixels, got {size}")
    if workers < 1:
        problems.append(f"workers: expected at least 1, got {workers}")
    if seed < 0:
        problems.append(f"seed: expected a non-negative integer, got {seed}")
    if problems:
        raise UsageError("; ".join(problems))


def _write_pictures(draw: Draw, out: Path, counts: Mapping[str, int], *, size: int, seed: int, workers: int) -> None:
    jobs = []
    for split, count in counts.items():
        for folder in ("images", "labels"):
            (out / folder / split).mkdir(parents=True)
        jobs += [(split, index, [seed, zlib.crc32(split.encode()), index]) for index in range(count)]
    write = partial(_write_picture, draw, out, size)
    if workers == 1:
        for job in jobs:
            write(job)
        return
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for _ in pool.map(write, jobs, chunksize=max(1, len(jobs) // (8 * workers))):
            pass  # draining the results is what raises a worker's error here


def _write_picture(draw: Draw, out: Path, size: int, job: tuple[str, int, list[int]]) -> None:
    split, index, seeds = job
    picture = draw(np.random.default_rng(seeds), size)
    written, png = cv2.imencode(".png", picture.image_bgr)
    if not written:
        raise OutputError(f"{out}: picture {index} of {split} cannot be encoded as PNG")
    (out / "images" / split / f"{index:05d}.png").write_bytes(png.tobytes())
    (out / "labels" / split / f"{index:05d}.txt").write_text(_yolo_labels(picture, size))


def _yolo_labels(picture: Picture, size: int) -> str:
    """Return one line per box: class, centre x, centre y, width, height as fractions of the side."""
    lines = []
    for class_id, (x1, y1, x2, y2) in zip(picture.class_ids, picture.boxes_xyxy.astype(float) / size, strict=True):
        lines.append(f"{class_id} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    return "".join(lines)
