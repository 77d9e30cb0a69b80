"""What an exported base remembers of its checkpoint, so that an adapter can be folded into the exported weights.

An adapter is defined on the checkpoint's weights W, the exported graph holds gain * W of the batch normalization behind
it. The file keeps the gain and the two parts of the bias; W itself follows from gain * W, because checkpoints hold half
precision. So the patched weights are those of the merged and exported checkpoint to the bit.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from visionlora.errors import ModelError

ENTRY = "visionlora_base"
"""The metadata entry of the ONNX file: base64 of zlib of a safetensors file."""
FORMAT = 1
_LARGEST = 1 << 28  # bytes: what a hostile file may unpack to


@dataclass(frozen=True, eq=False)
class FoldedNorm:
    """How a batch normalization was folded: weight = gain * W, bias = shift + beta. Arrays are (outputs,) float32.

    Attributes:
        gain: gamma / sigma.
        shift: (bias of the convolution - mean) * gamma / sigma.
        beta: shift of the batch normalization, which a trained bias is added to.
        ulps: what is missing from the recovered W, in steps of float32, int8 in the shape of W; None where the
            checkpoint's weights are half precision.
    """

    gain: NDArray[np.float32]
    shift: NDArray[np.float32]
    beta: NDArray[np.float32]
    ulps: NDArray[np.int8] | None = None

    def original(self, folded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return W from gain * W; 0 in a channel whose gain is 0, where it does not matter."""
        gain = self._by_channel(folded)
        with np.errstate(all="ignore"):  # a channel that the norm has silenced, or a broken file: checked by the caller
            quotient = folded.astype(np.float64) / gain
            if self.ulps is None:
                weight = quotient.astype(np.float16).astype(np.float32)
            else:
                weight = (quotient.astype(np.float32).view(np.int32) + self.ulps).view(np.float32)
            return np.where(gain == 0, np.float32(0), weight)

    def fold(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return gain * W."""
        return self._by_channel(weight) * weight

    def bias(self, delta: NDArray[np.floating] | None) -> NDArray[np.float32]:
        """Return the folded bias, with a trained one added, as the merged checkpoint would have it."""
        beta = self.beta if delta is None else self.beta + delta.astype(np.float32)
        return self.shift + beta

    def _by_channel(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.gain.reshape(-1, *[1] * (weight.ndim - 1))


@dataclass(frozen=True, eq=False)
class FoldedBase:
    """What an exported base remembers of its checkpoint.

    Attributes:
        name: the checkpoint's file name.
        fingerprint: SHA-256 of its weights.
        norms: layer name -> how its batch normalization was folded.
        plain: layers whose weight and bias are the checkpoint's own.
        class_outputs: the layers whose channels are the class scores; empty where the graph holds for its own classes
            alone.
        unused: layers of the checkpoint that the graph does not have (the end-to-end head), whose adapters count
            nothing here.
    """

    name: str
    fingerprint: str
    norms: Mapping[str, FoldedNorm]
    plain: tuple[str, ...]
    class_outputs: tuple[str, ...]
    unused: tuple[str, ...]

    def to_entry(self) -> str:
        """Return the metadata entry."""
        tensors: dict[str, NDArray[Any]] = {}
        for layer, norm in self.norms.items():
            tensors |= {f"{layer}.gain": norm.gain, f"{layer}.shift": norm.shift, f"{layer}.beta": norm.beta}
            if norm.ulps is not None:
                tensors[f"{layer}.ulps"] = norm.ulps
        fields = {
            "format": FORMAT,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "norms": list(self.norms),
            "plain": self.plain,
            "class_outputs": self.class_outputs,
            "unused": self.unused,
        }
        packed = zlib.compress(save(tensors, metadata={"visionlora": json.dumps(fields)}), 9)
        return base64.b64encode(packed).decode("ascii")


def read_folded_base(entries: Mapping[str, str], where: str) -> FoldedBase:
    """Return what the metadata of the ONNX file `where` remembers.

    Raises:
        ModelError: it remembers nothing, or the entry is broken.
    """
    if ENTRY not in entries:
        raise ModelError(
            f"{where}: expected a base that adapters can be patched into, got a file without the entry {ENTRY!r}; "
            "export the base's checkpoint with this version of visionlora"
        )
    try:
        content = _unpack(entries[ENTRY])
        length = int.from_bytes(content[:8], "little")  # the header of a safetensors file: `load` drops its metadata
        fields = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["visionlora"])
        tensors = load(content)
        if fields["format"] != FORMAT:
            raise ModelError(f"{where}: expected a base entry of format {FORMAT}, got {fields['format']}")
        return FoldedBase(
            name=str(fields["name"]),
            fingerprint=str(fields["fingerprint"]),
            norms={layer: _norm(layer, tensors) for layer in fields["norms"]},
            plain=_texts(fields["plain"]),
            class_outputs=_texts(fields["class_outputs"]),
            unused=_texts(fields["unused"]),
        )
    except (binascii.Error, zlib.error, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{where}: its entry {ENTRY!r} is broken: {error}; copy the file again") from error


def _unpack(entry: str) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(entry, validate=True), _LARGEST)
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or unpacks to more than {_LARGEST} bytes")
    return content


def _norm(layer: str, tensors: Mapping[str, NDArray[Any]]) -> FoldedNorm:
    vectors = [tensors[f"{layer}.{part}"] for part in ("gain", "shift", "beta")]
    if any(vector.dtype != np.float32 or vector.shape != vectors[0].shape or vector.ndim != 1 for vector in vectors):
        raise ValueError(f"{layer}: expected three float32 vectors of one length")
    ulps = tensors.get(f"{layer}.ulps")
    if ulps is not None and ulps.dtype != np.int8:
        raise ValueError(f"{layer}: expected ulps of int8, got {ulps.dtype}")
    gain, shift, beta = vectors
    return FoldedNorm(gain, shift, beta, ulps)


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"expected a list of layer names, got {values!r:.60}")
    return tuple(values)
