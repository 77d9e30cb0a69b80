"""Making a bundle: the model with all that a device needs beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visionlora.bundling.folder import check_replaceable, repair, write_folder
from visionlora.bundling.manifest import (
    MANIFEST,
    SIGNATURE,
    ExpectedDetection,
    ListedFile,
    Manifest,
    SelfTest,
    is_plain_name,
    time_now,
)
from visionlora.bundling.signing import sign
from visionlora.cards import family_in, licence_of
from visionlora.demonstration.surface import draw_surface
from visionlora.errors import ModelError, OutputError, UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.kinds import BUNDLE, CHECKPOINT, ONNX
from visionlora.hub import local_file
from visionlora.machine import this_machine
from visionlora.runtime import Detector
from visionlora.tasks import task_fields
from visionlora.vision.preprocess import IMAGE_SUFFIXES, read_image

RUNNER = "detect.py"
REQUIREMENTS = ("numpy", "onnxruntime", "pillow")
"""What the runner needs; Pillow, because its wheels are small and there are some for every board."""
_SELFTEST_CONFIDENCE, _SELFTEST_DETECTIONS = 0.001, 10
# In the order of `SelfTest`: integer kernels differ among processors.
_TOLERANCES = {"onnx": (1.0, 0.01, 0.05, 0.01, 0.01), "int8": (8.0, 0.05, 0.4, 0.1, 0.15)}


@dataclass(frozen=True)
class BundledModel:
    """A bundle that was made.

    Attributes:
        path: the folder or .zip.
        files: name -> size in bytes.
        manifest: what it says.
        signed: whether there is a signature.
    """

    path: Path
    files: Mapping[str, int]
    manifest: Manifest
    signed: bool


def bundle(
    model: Path | str,
    out: Path | str,
    *,
    picture: Path | str | None = None,
    latency: bool = False,
    licence: str | None = None,
    key: Path | str | None = None,
    overwrite: bool = False,
) -> BundledModel:
    """Put a model and all that a device needs into one folder or .zip: `python detect.py --self-test` there says OK.

    The runner is started in the finished bundle before it is kept.

    Args:
        model: an ONNX file that visionlora wrote.
        out: a folder, or a name that ends in .zip.
        picture: for the self-test; None draws a steel surface.
        latency: measure the milliseconds of a picture on this machine and write them down.
        licence: of the model, as an SPDX expression; that of its family of detectors if None.
        key: ed25519 private key (PEM) to sign the manifest with.
        overwrite: replace an existing bundle; a folder that is none, or that holds a file which no bundle has put
            there, is refused.

    Raises:
        ModelError: the model cannot be used, or the runner does not find what it should.
        DataError: the picture cannot be read.
        OutputError: `out` exists, is a folder that is no bundle, or cannot be written.
        UsageError: the key cannot be used, or the model finds nothing at all in the picture.

    Example:
        >>> import visionlora as vl
        >>> vl.bundle("model.int8.onnx", "line3.zip")  # doctest: +SKIP
    """
    model, out = Path(local_file(model, ONNX)), Path(out)
    if out.suffix == BUNDLE.suffix:
        _check_zip(out, overwrite=overwrite)
    else:
        repair(out)
        check_replaceable(out, overwrite=overwrite)
    if model.suffix != ONNX.suffix:
        made = model.with_suffix(ONNX.suffix)
        how = f": visionlora export --model {model} --out {made}" if model.suffix == CHECKPOINT.suffix else ""
        raise ModelError(f"{model}: expected an ONNX file that visionlora wrote; export the model first{how}")
    detector = Detector(model)
    card = detector.network.metadata
    if card is None:
        raise ModelError(f"{model}: expected an ONNX file that visionlora wrote, got one of another maker")
    if not is_plain_name(model.name):
        raise UsageError(f"{model.name}: expected a file name of letters, digits, dots and dashes")
    name, content = _picture(picture, detector.image_size)
    files = {
        model.name: model.read_bytes(),
        RUNNER: runner_path().read_bytes(),
        "requirements.txt": _requirements().encode(),
        name: content,
    }
    manifest = Manifest(
        model=model.name,
        kind=str(card["kind"]),
        created=time_now(),
        names=list(detector.names),
        preprocessing=card["preprocessing"],
        thresholds=list(detector.thresholds),
        files={name: ListedFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        selftest=_selftest(detector, name, content, str(card["kind"])),
        latency=_measure(detector) if latency else None,
        licence=licence or licence_of(family_in(card)),
        parents=card.get("parents", {}),
        version=importlib.metadata.version("visionlora"),
        **task_fields(detector.network.task),
    )
    files[MANIFEST] = manifest.to_json().encode()
    if key is not None:
        files[SIGNATURE] = sign(files[MANIFEST], key).hex().encode()
    _try(files)
    if out.suffix == BUNDLE.suffix:
        with atomic_output(out) as partial:
            partial.write_bytes(_zip(files))
    else:
        write_folder(files, out, overwrite=overwrite, downgrade=True)
    return BundledModel(out, {name: len(data) for name, data in files.items()}, manifest, key is not None)


def runner_path() -> Path:
    """Return the runner: beside this file in an installed package, in export/ of a clone."""
    installed = Path(__file__).with_name(RUNNER)
    return installed if installed.is_file() else Path(__file__).parents[2] / "export" / RUNNER


def _picture(path: Path | str | None, image_size: int) -> tuple[str, bytes]:
    """Return file name and bytes of the self-test's picture; PNG, whose pixels every reader agrees on."""
    if path is None:
        drawn = draw_surface(np.random.default_rng(7), image_size).image_bgr
    else:
        if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            raise UsageError(f"--picture {path}: expected a picture ({', '.join(IMAGE_SUFFIXES)})")
        drawn = read_image(path)
    return "selftest.png", cv2.imencode(".png", drawn)[1].tobytes()


def _selftest(detector: Detector, name: str, content: bytes, kind: str) -> SelfTest:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    confidence = _SELFTEST_CONFIDENCE if detector.network.task.boxes else None
    found = detector.predict(np.asarray(pixels, dtype=np.uint8), confidence=confidence)
    says = found.top(_SELFTEST_DETECTIONS).to_dict() if detector.network.task.boxes else found.to_dict()
    best = [ExpectedDetection(**one) for one in says["detections" if "detections" in says else "top5"]]
    if not best:
        raise UsageError("the model finds nothing at all in the self-test's picture; give another with --picture")
    return SelfTest(name, confidence or 0.0, best, *_TOLERANCES[kind])


def _requirements() -> str:
    return "".join(f"{package}=={importlib.metadata.version(package)}\n" for package in REQUIREMENTS)


def _measure(detector: Detector, runs: int = 30) -> dict[str, Any]:
    """Return the median milliseconds of a picture, from pixels to detections, on this machine."""
    grey = np.full((detector.image_size, detector.image_size, 3), 114, dtype=np.uint8)
    milliseconds = []
    for _ in range(runs + 3):
        started = time.perf_counter()
        detector.predict(grey)
        milliseconds.append(1000 * (time.perf_counter() - started))
    machine = this_machine()
    return {"ms": round(statistics.median(milliseconds[3:]), 2), "cpu": machine.cpu, "threads": machine.threads}


def _try(files: Mapping[str, bytes]) -> None:
    """Start the runner's self-test as a device would.

    Raises:
        ModelError: it does not say OK.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        command = [sys.executable, "-I", "-B", RUNNER, "--self-test"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        raise ModelError(f"the runner's self-test fails, no bundle is kept: {(done.stdout + done.stderr).strip()}")


def _check_zip(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that is no bundle.

    Raises:
        OutputError: `out` exists and is none, or `overwrite` is false.
    """
    refuse_existing(out, overwrite=overwrite)
    if not out.exists():
        return
    try:
        with zipfile.ZipFile(out) as archive:
            own = out.is_file() and MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        own = False
    if not own:
        raise OutputError(
            f"{out}: expected a bundle to replace, got another file; nothing is changed: choose another --out"
        )


def _zip(files: Mapping[str, bytes]) -> bytes:
    """Return a .zip that depends on the content alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
