"""Quantization: from a float ONNX detector to an int8 one that really runs in int8. Never imports torch."""

from visionlora.quantization.adapter_recipe import attach_recipe
from visionlora.quantization.calibration import calibrate
from visionlora.quantization.float_model import load_float_model
from visionlora.quantization.qdq import apply_recipe
from visionlora.quantization.quantizing import (
    FloatDetector,
    QuantizedModel,
    build_int8,
    calibrate_detector,
    int8_files,
    load_float_detector,
    quantize,
)
from visionlora.quantization.recipe import QuantizationRecipe
from visionlora.quantization.scheme import Scheme

__all__ = [
    "FloatDetector",
    "QuantizationRecipe",
    "QuantizedModel",
    "Scheme",
    "apply_recipe",
    "attach_recipe",
    "build_int8",
    "calibrate",
    "calibrate_detector",
    "int8_files",
    "load_float_detector",
    "load_float_model",
    "quantize",
]
