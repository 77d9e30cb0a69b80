"""Running exported detectors with onnxruntime, or OpenVINO where it is installed; never imports torch."""

from __future__ import annotations

from visionlora.runtime.detector import Detector
from visionlora.runtime.frames import Frame
from visionlora.runtime.network import OnnxNetwork
from visionlora.runtime.openvino import OpenVinoNetwork
from visionlora.runtime.streaming import stream

__all__ = ["Detector", "Frame", "OnnxNetwork", "OpenVinoNetwork", "stream"]
