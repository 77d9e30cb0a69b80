"""Quantization: from a float ONNX detector to an int8 one that really runs in int8. Never imports torch."""

from visionlora.quantization.calibration import calibrate
from visionlora.quantization.checks import sums_saturate
from visionlora.quantization.float_detector import FloatDetector, load_float_detector
from visionlora.quantization.quantizing import QuantizedModel, build_int8, calibrate_detector, int8_files, quantize

__all__ = [
    "FloatDetector",
    "QuantizedModel",
    "build_int8",
    "calibrate",
    "calibrate_detector",
    "int8_files",
    "load_float_detector",
    "quantize",
    "sums_saturate",
]
