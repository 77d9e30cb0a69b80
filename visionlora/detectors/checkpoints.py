"""What all families share: the fingerprint of weights, the bytes that torch writes, and what reading fails with."""

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

_CPU_ALLOCATOR = "DefaultCPUAllocator"  # in the message where a CPU has no memory left: a plain RuntimeError

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


def reason_of(error: BaseException) -> str:
    r"""Return the first line of what an error says; some have no words.

    Example:
        >>> reason_of(ValueError("a\nb")), reason_of(EOFError()), reason_of(KeyError())
        ('a', 'the file ends too early', 'KeyError()')
    """
    if isinstance(error, EOFError):
        return "the file ends too early"
    return (str(error).strip().splitlines() or [repr(error)])[0]


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


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says with an error that there is no memory left; on a CPU it has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)
