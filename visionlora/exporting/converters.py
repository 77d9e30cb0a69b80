"""Other files than ONNX for the same graph: OpenVINO, ncnn and LiteRT, each by its own converter."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from visionlora.errors import UsageError
from visionlora.formats.kinds import METADATA, OWN_METADATA, WEIGHTS
from visionlora.isolation import isolate_openvino

_LIBRARIES = {"openvino": "openvino", "ncnn": "pnnx", "litert": "litert_torch"}


def require_converter(name: str) -> Any:
    """Return the library that writes a format.

    Raises:
        UsageError: it is not installed.
    """
    isolate_openvino()
    try:
        return importlib.import_module(_LIBRARIES[name])
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--format {name}: {_LIBRARIES[name]} is not installed; pip install '.[{name}]' in a clone of visionlora"
        ) from error


def write_openvino(onnx_path: Path, out: Path, metadata: Mapping[str, Any]) -> None:
    """Convert an ONNX file to OpenVINO's `.xml` and `.bin` in float32, its description beside it."""
    openvino = require_converter("openvino")
    openvino.save_model(openvino.convert_model(onnx_path), out, compress_to_fp16=False)
    _describe_beside(out, metadata)


def write_ncnn(detector: nn.Module, images: torch.Tensor, out: Path, metadata: Mapping[str, Any]) -> None:
    """Convert a torch module to ncnn's `.param` and `.bin` in float32, its description beside it."""
    pnnx = require_converter("ncnn")
    with tempfile.TemporaryDirectory() as folder, _silent():
        # files that nobody needs; by their suffix pnnx finds its own again
        others = {"ptpath": "a.pt", "ncnnpy": "a_ncnn.py", "pnnxparam": "a.pnnx.param", "pnnxbin": "a.pnnx.bin"}
        others |= {"pnnxpy": "a_pnnx.py", "pnnxonnx": "a.onnx"}
        scratch = {name: str(Path(folder) / file) for name, file in others.items()}
        wanted = {"ncnnparam": str(out), "ncnnbin": str(out.with_suffix(WEIGHTS))}
        pnnx.export(detector, inputs=images, fp16=False, **scratch, **wanted)
    _describe_beside(out, metadata)


def write_litert(detector: nn.Module, images: torch.Tensor, out: Path, metadata: Mapping[str, Any]) -> None:
    """Convert a torch module to LiteRT's `.tflite` in float32, its description appended as Ultralytics does."""
    with _silent():
        require_converter("litert").convert(detector, (images,)).export(str(out))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps(metadata))


def _describe_beside(out: Path, metadata: Mapping[str, Any]) -> None:
    """Write the description under both names; `FileKind.files` says which of them a folder is to have."""
    text = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    for path in (out.with_suffix(OWN_METADATA), out.with_name(METADATA)):
        path.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what converters print, also from other languages and child processes, off the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, start=1):
                os.dup2(copy, number)
                os.close(copy)
