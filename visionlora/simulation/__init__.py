"""Computing an exported graph in torch as its int8 file will compute it, with gradients. Knows no YOLO and no data."""

from visionlora.simulation.fake import fake_quantize, quantized_silu
from visionlora.simulation.graph import GraphNetwork
from visionlora.simulation.layers import LayerConstants
from visionlora.simulation.ranges import LearnedRanges, RangeSpec, SimulationSpec

__all__ = [
    "GraphNetwork",
    "LayerConstants",
    "LearnedRanges",
    "RangeSpec",
    "SimulationSpec",
    "fake_quantize",
    "quantized_silu",
]
