"""Pictures before they are pixels: which files a path, a folder or a pattern names, and what counts as one picture."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError
from visionlora.vision.preprocess import IMAGE_SUFFIXES, MAX_FILE_BYTES, MAX_PIXELS, as_pixels, read_image

_TIMEOUT = 5.0
"""Seconds after which a server that is silent counts as lost."""


def find_images(source: Path | str) -> list[Path]:
    """Return the images that a path, a folder or a glob pattern names, sorted.

    Names that begin with a dot are left out (macOS writes `._x.jpg` beside `x.jpg`, programs write so what they rename
    afterwards) unless the pattern begins so too; so is what is no regular file, such as a pipe, which could be waited
    for without end. `**` goes into linked folders, but into each folder once.

    Raises:
        DataError: there is none.
    """
    name = os.fspath(source)
    if os.path.isdir(name):
        images = sorted(Path(name, entry) for entry in os.listdir(name) if _is_image(entry) and entry[0] != ".")
    elif os.path.lexists(name):
        images = [Path(name)]
    elif glob.has_magic(name):
        images = sorted({path for path in _matching(Path(name)) if _is_image(path.name)})
    else:
        raise DataError(f"{source}: it does not exist; expected an image, a folder of images, a pattern or a video")
    regular = [path for path in images if path.is_file()]
    if not regular:
        what = f"{len(images)} named like one, but no regular file" if images else "no image"
        raise DataError(f"{source}: expected an image, a folder of images or a pattern, found {what}")
    return regular


def pixels_of(image: Any) -> NDArray[np.uint8]:
    """Return the pixels of a file, of an array that may be grey, or of a Pillow image, turned as its EXIF says.

    Returns:
        (H, W, 3) uint8, BGR; an array of that shape is not copied.

    Raises:
        DataError: the file cannot be read, or `image` is none of these.
    """
    if isinstance(image, str | Path):
        try:
            regular = stat.S_ISREG(os.stat(image).st_mode)
        except (OSError, ValueError):
            regular = True  # the reader says what is wrong
        if not regular:
            raise DataError(f"{image}: expected an image, got no regular file")
        return read_image(image)
    # A Pillow image exists only where Pillow is loaded; this module does not load it.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _pillow_pixels(image)
    return as_pixels(image)


def download_picture(address: str) -> NDArray[np.uint8]:
    """Return the pixels of a picture on a server.

    Raises:
        DataError: it cannot be fetched, or is no picture.
    """
    from urllib.request import urlopen  # takes as long to load as OpenCV

    try:
        with urlopen(address, timeout=_TIMEOUT) as answer:
            content = answer.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{address}: cannot be fetched: {getattr(error, 'reason', error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture")
        file.write_bytes(content)
        try:
            return read_image(file)
        except DataError as error:
            raise DataError(str(error).replace(str(file), address)) from error


def _pillow_pixels(image: Any) -> NDArray[np.uint8]:
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"expected an image of at most {MAX_PIXELS / 1e6:.0f} million pixels, got {image.size}")
    if image.mode in ("F", "I"):
        raise DataError(f"expected an image of 8 or 16 bits a pixel, got one of Pillow's mode {image.mode}")
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # 16 bits become 8 by their high byte, as those of a file do
            return as_pixels((np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8))
        rgb = np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"expected an image, got one that Pillow cannot decode: {error}") from error
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _matching(pattern: Path) -> Iterator[Path]:
    """The files that a pattern names."""
    parts = pattern.parts
    start = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    yield from _below(Path(*parts[:start]), parts[start:], [set() for _ in parts])


def _below(folder: Path, parts: tuple[str, ...], entered: list[set[tuple[int, int]]]) -> Iterator[Path]:
    """What matches `parts` in a folder; `entered` has, for each part, the folders in which `**` has been."""
    first, rest = parts[0], parts[1:]
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # no folder, or none that may be read: nothing in it matches, as in a shell
        return
    if first == "**":
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in entered[len(rest)]:
            return
        entered[len(rest)].add((state.st_dev, state.st_ino))
        yield from _below(folder, rest or ("*",), entered)
        for name in names:
            if name[0] != "." and os.path.isdir(folder / name):
                yield from _below(folder / name, parts, entered)
        return
    for name in names:
        if fnmatch.fnmatch(name, first) and (name[0] != "." or first[0] == "."):
            if not rest:
                yield folder / name
            elif os.path.isdir(folder / name):
                yield from _below(folder / name, rest, entered)
