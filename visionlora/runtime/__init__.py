"""Running exported detectors with onnxruntime, or OpenVINO where it is installed; never imports torch."""

from __future__ import annotations

from visionlora.runtime.detector import Detector
from visionlora.runtime.network import OnnxNetwork
from visionlora.runtime.openvino import OpenVinoNetwork

__all__ = ["Detector", "OnnxNetwork", "OpenVinoNetwork"]
