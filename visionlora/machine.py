"""Where the numbers come from: the processor, and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = (
    "visionlora",
    "torch",
    "torchvision",
    "ultralytics",
    "onnxruntime",
    "openvino",
    "ncnn",
    "ai-edge-litert",
    "numpy",
    "opencv-python",
    "pycocotools",
)


@dataclass(frozen=True)
class Machine:
    """Where the milliseconds were measured; `threads` are the processors that this process may use."""

    cpu: str
    cores: int
    threads: int


def this_machine() -> Machine:
    """Return the processor's name and counts."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(cpu=_cpu_name(), cores=os.cpu_count() or 1, threads=threads or 1)


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that decide about the numbers, without importing them."""
    return {"python": platform.python_version(), **versions_of(_PACKAGES)}


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed: a machine that runs ONNX files needs no torch."""
    versions = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"
