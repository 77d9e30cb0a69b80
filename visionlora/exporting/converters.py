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
from visionlora.isolation import isolate_openvino
from visionlora.runtime.description import METADATA, OWN_METADATA

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "ncnn": ".param", "litert": ".tflite"}
"""Formats, and how the name of the file ends that is to be written or run."""
_ULTRALYTICS_FOLDERS = ("_openvino_model", "_ncnn_model")
"""How the name of a folder ends that Ultralytics opens as one model; it reads `metadata.yaml` there."""
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
            f"format {name}: {_LIBRARIES[name]} is not installed; pip install '.[{name}]' in a clone of visionlora"
        ) from error


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of a model whose file to run is `path`: the weights and the description first, itself last."""
    if path.suffix in (".xml", ".param"):
        described = [path.with_suffix(OWN_METADATA)]
        if path.absolute().parent.name.endswith(_ULTRALYTICS_FOLDERS):
            described.append(path.with_name(METADATA))
        return path.with_suffix(".bin"), *described, path
    return (path,)


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
        wanted = {"ncnnparam": str(out), "ncnnbin": str(out.with_suffix(".bin"))}
        pnnx.export(detector, inputs=images, fp16=False, **scratch, **wanted)
    _describe_beside(out, metadata)


def write_litert(detector: nn.Module, images: torch.Tensor, out: Path, metadata: Mapping[str, Any]) -> None:
    """Convert a torch module to LiteRT's `.tflite` in float32, its description appended as Ultralytics does."""
    with _silent():
        require_converter("litert").convert(detector, (images,)).export(str(out))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps(metadata))


def _describe_beside(out: Path, metadata: Mapping[str, Any]) -> None:
    """Write the description under both names; `files_of` says which of them a folder is to have."""
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
