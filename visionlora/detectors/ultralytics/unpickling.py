"""Loading a detector from a checkpoint without running the code in it; `formats.pickled` only looks into one.

torch's `weights_only=True` follows only the instructions of a pickle that an allow-list names. Ultralytics has such a
list of layers (`ULTRALYTICS_SAFE_LOAD`), but there a file may call a layer's constructor with arguments of its own,
and some constructors download weights or open files. Here a file gets no layer class at all: it gets a stand-in that
makes the object bare, as unpickling does, and refuses to be called. Nothing else that it can name does more than build
tensors, containers and numbers.
"""

from __future__ import annotations

import importlib
import pathlib
import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import E2EDetectLoss

from visionlora.detectors.safe_globals import only_allowed
from visionlora.errors import ModelError

_LAYERS = ("torch.nn.modules", "ultralytics.nn.modules", "ultralytics.nn.tasks")
"""Modules whose layer classes a checkpoint may name, and those below them."""
_LOSSES = ("ultralytics.utils.loss", "ultralytics.utils.tal", "ultralytics.nn.distill_model")
"""Modules whose own classes it may name: an interrupted training leaves its loss in the file."""
_MOVED = {  # ultralytics/nn/tasks.py, torch_safe_load: names of earlier versions
    "ultralytics.nn.modules.block.Silence": nn.Identity,
    "ultralytics.nn.tasks.YOLOv10DetectionModel": DetectionModel,
    "ultralytics.utils.loss.v10DetectLoss": E2EDetectLoss,
}
_TORCHS_OWN = ("torch.", "collections.", "_codecs.", "builtins.set", "builtins.bytearray", "builtins.complex")
"""How names begin that torch decides about."""
_ANYWAY = "--trust (in Python: with visionlora.trusted()) loads it anyway and runs the code in it"
_SCAN_BYTES = 64 << 20


def read_restricted(path: Path) -> Any:
    """Return what `torch.save` wrote into a file, if it is made of layers, tensors and plain values alone.

    Raises:
        ModelError: the file asks for anything else; the message names it.
        Exception: the file is damaged (see `checkpoint.load_base`).
    """
    names = _names_in(path)
    made: list[tuple[object, type]] = []
    known = {name: stand_in for name in names if (stand_in := _stand_in(name, path, made)) is not None}
    foreign = sorted(name for name in names if name not in known and not name.startswith(_TORCHS_OWN))
    if foreign:
        raise _refusal(path, foreign)
    with only_allowed([(stand_in, name) for name, stand_in in known.items()]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a damaged file: what is told is the error
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _explained(path, error) from error
    for thing, kind in made:
        thing.__class__ = kind  # from here on an ordinary layer
    return content


def _stand_in(name: str, path: Path, made: list[tuple[object, type]]) -> Any | None:
    """Return what a file gets that names a class or a function, or None where it may not."""
    if name in _PLAIN:
        return _PLAIN[name]
    kind = _layer(name)
    return None if kind is None else _bare(kind, path, made)


def _layer(name: str) -> type | None:
    """Return the class of a layer or a loss by its name in a checkpoint."""
    if name in _MOVED:
        return _MOVED[name]
    module, _, attribute = name.rpartition(".")
    a_layer = any(module == room or module.startswith(f"{room}.") for room in _LAYERS)
    if not a_layer and module not in _LOSSES:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type):
        return None
    return found if (issubclass(found, nn.Module) if a_layer else found.__module__ == module) else None


def _bare(kind: type, path: Path, made: list[tuple[object, type]]) -> type:
    """Return a class whose objects are made without their constructor, and noted; it cannot be called."""

    def new(cls: type, *arguments: object) -> object:
        if arguments:
            refuse()
        thing = cast(Any, kind).__new__(cls)
        made.append((thing, kind))
        return thing

    def refuse(*_: object) -> None:
        raise _refusal(path, [f"the constructor of {kind.__module__}.{kind.__qualname__}"])

    body: dict[str, Any] = {"__new__": new, "__init__": refuse, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), body)


class _NumberType:
    """What numpy writes for the type of a number: its name such as `f8`, then its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiu][1248]|b1", name):
            raise ValueError(f"expected the type of a number, got {name!r:.60}")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]


def _number(kind: _NumberType, data: bytes) -> float:
    """Return a numpy number as Python's."""
    return cast(float, np.frombuffer(data, np.dtype(f"{kind.order}{kind.name}"), count=1)[0].item())


def _path(*parts: str) -> str:
    """Return a path as text: nothing here opens it."""
    return str(pathlib.PurePosixPath(*parts))


def _attribute(owner: object, name: str) -> str:
    """Return the name of a layer's method, which fused layers and other tasks' heads hold, instead of the method."""
    return f"{(owner if isinstance(owner, type) else type(owner)).__name__}.{name}"


_PLAIN: dict[str, Callable[..., Any]] = {
    "builtins.getattr": _attribute,
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "ultralytics.utils.IterableSimpleNamespace": IterableSimpleNamespace,
    "ultralytics.yolo.utils.IterableSimpleNamespace": IterableSimpleNamespace,
    **{f"{room}.{kind}": _path for room in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath")},
}


def _refusal(path: Path, names: list[str]) -> ModelError:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    which = "which is" if len(names) == 1 else "which are"
    return ModelError(f"{path}: refused: it needs {shown}, {which} no part of a detector; {_ANYWAY}")


def _explained(path: Path, error: pickle.UnpicklingError) -> ModelError:
    """Say by name what torch refused, or that the file is damaged."""
    named = re.search(r"GLOBAL (\S+)|function (.+?)(?:$|\n)", str(error))
    if named:
        return _refusal(path, [named.group(1) or named.group(2)])
    reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    reason = reason.strip().splitlines()[0]
    if "persistent_load" in reason:
        return ModelError(
            f"{path}: refused: it was saved as torch before 1.6 did, with the code of its layers; {_ANYWAY}"
        )
    return ModelError(f"{path}: cannot be read as an Ultralytics checkpoint: {reason}")


def _names_in(path: Path) -> set[str]:
    """Return the classes and functions that the pickles of a file name; what cannot be read names nothing.

    Only names found here are let in, so that a file which hides some from this reader is refused by torch.
    """
    found: set[str] = set()
    for stream in _pickles(path):
        try:
            while True:  # the older format is several pickles, one after the other
                found |= _names_in_pickle(stream)
        except (ValueError, EOFError, OverflowError, MemoryError, zipfile.BadZipFile, OSError):
            continue  # the end, or damage, of which torch's reader tells
    return found


def _names_in_pickle(stream: BinaryIO) -> set[str]:
    """Return the classes and functions that the next pickle of a stream names."""
    found: set[str] = set()
    pushed: list[Any] = []  # texts, in the order in which they come onto the stack
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".", 1)
            found.add(re.sub(r"^__builtin__\.", "builtins.", name))  # as Python 2 called them
        elif code.name == "STACK_GLOBAL":  # torch's reader knows no such file: its names are for the message
            found.add(".".join(map(str, pushed[-2:])))
        elif code.name == "MEMOIZE" or "PUT" in code.name:
            memo[len(memo) if argument is None else argument] = pushed[-1] if pushed else None
        elif "GET" in code.name:
            pushed.append(memo.get(cast(int, argument)))
        elif isinstance(argument, str):
            pushed.append(argument)
    return found


def _pickles(path: Path) -> Iterator[BinaryIO]:
    """Yield the streams in a file in which pickles may be, for the formats that torch has had."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith("data.pkl") and entry.file_size <= _SCAN_BYTES:
                        with archive.open(entry) as stream:
                            yield cast(BinaryIO, stream)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError):
            return
    else:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    inside = tar.extractfile(member) if member.isfile() else None
                    if inside is not None:
                        yield cast(BinaryIO, inside)
        except (tarfile.TarError, OSError, ValueError, EOFError):
            pass
        with open(path, "rb") as stream:
            yield stream
