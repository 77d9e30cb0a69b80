"""Running exported detectors with onnxruntime; never imports torch."""

from __future__ import annotations

from visionlora.runtime.network import OnnxNetwork

__all__ = ["OnnxNetwork"]
