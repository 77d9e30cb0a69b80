"""Checkpoints that run code when they are unpickled: what a test of refusing them gives to a reader."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.modules.block import TorchVision
from ultralytics.nn.tasks import DetectionModel


class Call:
    """Unpickled, it is the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


class Harmless:
    """A class that no detector has, and that does nothing."""


def _touch(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


def _evaluated(marker: Path) -> Call:
    return Call(builtins.eval, f"open({str(marker)!r}, 'w')")


def in_the_model(content: dict[str, Any], marker: Path) -> bytes:
    content["model"].model[0].conv.note = {"deep": [_touch(marker)]}
    return _saved(content)


def beside_the_model(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({**content, "note": _evaluated(marker)})


def instead_of_the_model(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({"model": _touch(marker)})


def through_attributes(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({**content, "note": Call(getattr, Call(__import__, "os"), "system")})


def as_a_method(content: dict[str, Any], marker: Path) -> bytes:
    content["model"].model[0].__dict__["__setstate__"] = os.system
    return _saved(content)


def built_with_arguments(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({"model": Call(TorchVision, "resnet18", "DEFAULT")})  # its constructor downloads


def built_from_a_description(content: dict[str, Any], marker: Path) -> bytes:
    description = {"activation": f"open({str(marker)!r}, 'w')", "backbone": [], "head": []}
    return _saved({"model": Call(DetectionModel, description)})  # its constructor evaluates the activation


def in_the_older_format(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({**content, "note": _touch(marker)}, _use_new_zipfile_serialization=False)


def in_the_oldest_format(content: dict[str, Any], marker: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(_touch(marker), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def in_another_protocol(content: dict[str, Any], marker: Path) -> bytes:
    return _saved({**content, "note": _touch(marker)}, pickle_protocol=4)


def as_a_plain_pickle(content: dict[str, Any], marker: Path) -> bytes:
    return pickle.dumps(_touch(marker))


def _saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


KINDS: dict[str, tuple[Callable[[dict[str, Any], Path], bytes], str]] = {
    "in the model": (in_the_model, "system"),
    "beside the model": (beside_the_model, "builtins.eval"),
    "instead of the model": (instead_of_the_model, "system"),
    "through attributes": (through_attributes, "builtins.__import__"),
    "as a method": (as_a_method, "system"),
    "built with arguments": (built_with_arguments, r"constructor of \S+TorchVision"),
    "built from a description": (built_from_a_description, r"constructor of \S+DetectionModel"),
    "in the older format": (in_the_older_format, "system"),
    "in the oldest format": (in_the_oldest_format, "system"),
    "in another protocol": (in_another_protocol, "system"),
    "as a plain pickle": (as_a_plain_pickle, "system"),
}
"""Who writes such a file, given a checkpoint's content and the file to touch, and what a refusal must name."""
