"""What may execute a network: onnxruntime's execution providers, by short names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnxruntime

from visionlora.errors import ModelError, UsageError

Provider: TypeAlias = str | tuple[str, dict[str, Any]]
Providers: TypeAlias = str | Sequence[Provider]
"""A name, or several in the order of preference, each alone or with its options."""
CPU = "CPUExecutionProvider"
_SHORT = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
_PACKAGES = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
    "QNNExecutionProvider": "onnxruntime-qnn",
}
"""The package of onnxruntime that brings a provider, in place of `onnxruntime`."""


def resolve_providers(providers: Providers) -> list[Provider]:
    """Return onnxruntime's own names for what a user wrote.

    Args:
        providers: `cpu`, `cuda`, `tensorrt`, `openvino`, `directml`, `coreml`, `migraphx`, `qnn`, `xnnpack`, or
            onnxruntime's own name; or several in the order of preference, each alone or as (name, options).
            What the first cannot execute goes to the next, and at last to the CPU.

    Raises:
        UsageError: this onnxruntime has no such provider.

    Example:
        >>> resolve_providers("cpu")
        ['CPUExecutionProvider']
    """
    wanted = [providers] if isinstance(providers, str) else list(providers)
    if not wanted:
        raise UsageError("providers: expected at least one, got none")
    resolved: list[Provider] = [
        _full_name(provider) if isinstance(provider, str) else (_full_name(provider[0]), provider[1])
        for provider in wanted
    ]
    available = onnxruntime.get_available_providers()
    missing = [name for name in map(_name, resolved) if name not in available]
    if missing:
        packages = sorted({_PACKAGES[name] for name in missing if name in _PACKAGES})
        advice = f"; install {' or '.join(packages)} instead of onnxruntime" if packages else ""
        raise UsageError(
            f"providers: this onnxruntime has {', '.join(available)}, but not {', '.join(missing)}{advice}"
        )
    return resolved


def check_started(path: Path, session: onnxruntime.InferenceSession, providers: Sequence[Provider]) -> None:
    """Refuse a session that left out a provider, which onnxruntime does with no more than a log line.

    Raises:
        ModelError: a provider could not be started.
    """
    failed = [name for name in map(_name, providers) if name not in session.get_providers()]
    if failed:
        raise ModelError(
            f"{path}: {', '.join(failed)} could not be started on this machine: its driver or a library is missing"
        )


def _full_name(name: str) -> str:
    return _SHORT.get(name.lower(), name)


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]
