"""Low-rank adapters on any torch module: which layers, the arithmetic, and the adapter file.

Knows no detector, no data set and no ONNX. W' = W + scale * B @ A on the base's own weights (LoRA, arXiv 2106.09685),
with scale = alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).
"""

from visionlora.adapters.attach import adapter_tensors, attach, load_adapter_tensors
from visionlora.adapters.file import Adapter, load_adapter, save_adapter
from visionlora.adapters.layers import Layer, SkippedLayer, adaptable_layers
from visionlora.adapters.merge import merge
from visionlora.adapters.plan import AdapterPlan, layer_selector, plan_adapter
from visionlora.adapters.together import WeightsTogether
from visionlora.lowrank import AdapterCard, AdapterSettings, read_adapter_card

__all__ = [
    "Adapter",
    "AdapterCard",
    "AdapterPlan",
    "AdapterSettings",
    "Layer",
    "SkippedLayer",
    "WeightsTogether",
    "adaptable_layers",
    "adapter_tensors",
    "attach",
    "layer_selector",
    "load_adapter",
    "load_adapter_tensors",
    "merge",
    "plan_adapter",
    "read_adapter_card",
    "save_adapter",
]
