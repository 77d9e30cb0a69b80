"""Computing an exported graph in torch as its int8 file will compute it, with gradients. Knows no YOLO and no data."""

from visionlora.fake_quant.fake import fake_quantize, quantized_silu
from visionlora.fake_quant.graph import GraphNetwork
from visionlora.fake_quant.layers import LayerConstants
from visionlora.fake_quant.ranges import FakeQuantSpec, LearnedRanges, RangeSpec
from visionlora.fake_quant.spec import fake_quant_spec

__all__ = [
    "FakeQuantSpec",
    "GraphNetwork",
    "LayerConstants",
    "LearnedRanges",
    "RangeSpec",
    "fake_quant_spec",
    "fake_quantize",
    "quantized_silu",
]
