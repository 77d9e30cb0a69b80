"""What the checkpoints of all families share: the fingerprint of weights, and the bytes that torch writes."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
import zlib

import torch
from torch import nn

UNREADABLE = (
    OSError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    MemoryError,
    EOFError,
    ImportError,
    pickle.UnpicklingError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading and trying a damaged file can raise: its bytes may have become any other value of any field."""


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights: names, shapes and float32 values, without counters.

    A checkpoint stored in half precision has the fingerprint of the same weights stored in float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def pack(content: object) -> bytes:
    """Return what `torch.save` would write, so that a full disk is met where files are written."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
