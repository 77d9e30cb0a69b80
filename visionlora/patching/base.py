"""An exported base on the device, ready for adapters."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from visionlora.adapters import FoldedBase, read_folded_base
from visionlora.errors import ModelError
from visionlora.formats.kinds import ADAPTER, CHECKPOINT, FILES
from visionlora.formats.parsing import parse_json
from visionlora.formats.seal import check_entry, is_sealed, unseal
from visionlora.formats.text import class_names

_LOGGER = logging.getLogger("visionlora")

PREFIX = "model."
"""What the exported graph puts before a layer's name in the checkpoint."""
KEPT_ENTRY = "visionlora_kept"
"""The metadata entry of a base with adapters beside it: the entries that the base had."""
_LARGEST = 1 << 30  # bytes of a file that is read whole
_BROKEN_DATA = (ValueError, TypeError, OverflowError, MemoryError)  # of a tensor that lies about its shape


@dataclass(frozen=True, eq=False)
class PatchableBase:
    """An exported base.

    Attributes:
        path: the file.
        sha256: of its bytes.
        model: the file's content; nobody may change it.
        folded: what it remembers of its checkpoint.
        card: the `visionlora` entry of its metadata.
        weights: layer name -> the checkpoint's own weight, float32.
        biases: layer name -> the exported bias, float32.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    folded: FoldedBase
    card: Mapping[str, Any]
    weights: Mapping[str, NDArray[np.float32]]
    biases: Mapping[str, NDArray[np.float32]]

    @property
    def names(self) -> tuple[str, ...]:
        """The base's own classes."""
        return tuple(self.card["names"])

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.card["preprocessing"]["image_size"])


def load_patchable(path: Path | str) -> PatchableBase:
    """Read a base that visionlora exported.

    Raises:
        ModelError: the file is missing, broken, or no base that adapters can be patched into.
    """
    path = Path(path)
    kind = FILES.get(path.suffix)
    if kind in (CHECKPOINT, ADAPTER):
        advice = "; export it first: visionlora export" if kind is CHECKPOINT else ""
        raise ModelError(f"{path}: expected an exported base (.onnx), got {kind.words}{advice}")
    return patchable(path, read_whole(path))


def parsed(path: Path, content: bytes) -> onnx.ModelProto:
    """Return the model in the bytes of an ONNX file, without its checksum, which is checked if it has one.

    Raises:
        ModelError: the bytes are broken.
    """
    sealed = is_sealed(path, content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{path}: expected an ONNX file, cannot read it: {error}") from error
    check_entry(path, {entry.key: entry.value for entry in model.metadata_props}, sealed=sealed)
    unseal(model)
    return model


def patchable(path: Path, content: bytes) -> PatchableBase:
    """Return the base in the bytes of an ONNX file.

    Raises:
        ModelError: they are broken, or no base that adapters can be patched into.
    """
    model, sealed = parsed(path, content), is_sealed(path, content)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if KEPT_ENTRY in entries:
        raise ModelError(
            f"{path}: expected a base alone, got one with adapters beside it; patch it with --keep exact, or take them "
            "out: visionlora adapters remove"
        )
    folded = read_folded_base(entries, str(path))
    try:
        card = parse_json(entries["visionlora"])
        kind, image_size = card["kind"], card["preprocessing"]["image_size"]
        class_names(card["names"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its visionlora metadata is broken: {error!r:.200}") from error
    if kind != "onnx" or not isinstance(image_size, int) or not isinstance(card["names"], list):
        raise ModelError(f"{path}: expected a float base that visionlora exported, got {kind!r:.80}")
    if not sealed:
        _check_graph(path, model)
        _LOGGER.warning(
            "%s: was exported by an earlier version or edited: it has no checksum, and damage to its weights goes "
            "unnoticed; export the base again",
            path,
        )
    constants = _constants(path, model, folded)
    weights, biases = {}, {}
    for layer in (*folded.norms, *folded.plain):
        weight, bias = constants.get(f"{layer}.weight"), constants.get(f"{layer}.bias")
        if weight is None or bias is None or weight.ndim < 2 or bias.shape != weight.shape[:1]:
            raise ModelError(f"{path}: {layer}: expected a float32 weight and bias in the graph; copy the file again")
        norm = folded.norms.get(layer)
        if norm is not None and (
            norm.gain.shape != bias.shape or (norm.ulps is not None and norm.ulps.shape != weight.shape)
        ):
            raise ModelError(f"{path}: {layer}: its fold is not of the shape of its weight; copy the file again")
        weights[layer] = weight if norm is None else norm.original(weight)
        biases[layer] = bias
    if not all(layer in weights for layer in folded.class_outputs):
        raise ModelError(f"{path}: expected the class outputs {', '.join(folded.class_outputs)} in the graph")
    return PatchableBase(path, hashlib.sha256(content).hexdigest(), model, folded, card, weights, biases)


def read_whole(path: Path) -> bytes:
    """Return the bytes of a file that is not larger than any detector.

    Raises:
        ModelError: it cannot be read, or is larger.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe could wait for ever
            raise ModelError(f"{path}: expected an ONNX file, got a pipe or a device; give a regular file")
        if path.stat().st_size > _LARGEST:
            raise ModelError(f"{path}: expected at most {_LARGEST} bytes, got {path.stat().st_size}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_graph(path: Path, model: onnx.ModelProto) -> None:
    """Refuse a graph that lacks what its operators need, where no checksum says that it is whole."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: its graph is broken: {str(error).strip():.200}; copy the file again") from error


def _constants(path: Path, model: onnx.ModelProto, folded: FoldedBase) -> dict[str, NDArray[np.float32]]:
    """Return the exported weights and biases by their names in the checkpoint."""
    wanted = {f"{PREFIX}{layer}.{part}" for layer in (*folded.norms, *folded.plain) for part in ("weight", "bias")}
    constants = {}
    for tensor in model.graph.initializer:
        if tensor.name in wanted:
            # Data in another file could be any file of this machine.
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type != onnx.TensorProto.FLOAT:
                raise ModelError(f"{path}: {tensor.name}: expected float32 inside the file")
            try:
                array = numpy_helper.to_array(tensor)
            except _BROKEN_DATA as error:
                raise ModelError(f"{path}: {tensor.name}: its data is broken: {error}; copy the file again") from error
            constants[tensor.name.removeprefix(PREFIX)] = array
    return constants
