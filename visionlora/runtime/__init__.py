"""Running exported detectors with onnxruntime, OpenVINO, ncnn or LiteRT, where installed; never imports torch.

A runtime is loaded when its network is first asked for, so that the memory of a process is that of one runtime.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionlora.formats.kinds import KINDS, LITERT
from visionlora.vision.inference import try_out

if TYPE_CHECKING:
    from visionlora.runtime.detector import Detector
    from visionlora.runtime.frames import Frame
    from visionlora.runtime.litert import LiteRtNetwork
    from visionlora.runtime.ncnn import NcnnNetwork
    from visionlora.runtime.network import OnnxNetwork
    from visionlora.runtime.openvino import OpenVinoNetwork
    from visionlora.runtime.streaming import stream

__all__ = [
    "Detector",
    "Frame",
    "LiteRtNetwork",
    "NcnnNetwork",
    "OnnxNetwork",
    "OpenVinoNetwork",
    "open_exported",
    "read_card",
    "stream",
]

_HOMES = {
    "Detector": "detector",
    "Frame": "frames",
    "LiteRtNetwork": "litert",
    "NcnnNetwork": "ncnn",
    "OnnxNetwork": "network",
    "OpenVinoNetwork": "openvino",
    "stream": "streaming",
}
_NETWORKS = {
    "litert": "LiteRtNetwork",
    "ncnn": "NcnnNetwork",
    "onnxruntime": "OnnxNetwork",
    "openvino": "OpenVinoNetwork",
}


def open_exported(path: Any, runtime: str, *, threads: int | None = None) -> Any:
    """Open an exported file as a Network, executed by `onnxruntime`, `openvino`, `ncnn` or `litert`, and try it.

    Raises:
        ModelError: the runtime is not installed, or cannot use the file, or the network computes nonsense.
        UsageError: `threads` is below 1.
    """
    network = __getattr__(_NETWORKS[runtime])(path, threads=threads)
    try_out(network)
    return network


def read_card(path: Path) -> Mapping[str, Any] | None:
    """Return the card that visionlora wrote into an exported file, or beside it; None for a file of another maker.

    Raises:
        ModelError: the file cannot be used, or a LiteRT file is of another maker.
    """
    kind = KINDS[path.suffix]
    if kind.weights:
        from visionlora.runtime.description import described_beside

        return described_beside(path).card
    if kind is LITERT:
        from visionlora.runtime import litert

        return litert.read_card(path)
    from visionlora.runtime.network import OnnxNetwork

    return OnnxNetwork(path).metadata


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
