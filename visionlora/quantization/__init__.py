"""Quantization: from a float ONNX detector to an int8 one that really runs in int8. Never imports torch."""

from visionlora.quantization.quantizing import QuantizedModel, quantize

__all__ = ["QuantizedModel", "quantize"]
