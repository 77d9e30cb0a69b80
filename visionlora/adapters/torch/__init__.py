"""Adapters on any torch module: which layers, how their weights are adapted together, and the adapter file.

Knows no detector, no data set and no ONNX. How a weight is adapted, a method says (`visionlora.adapters.methods`).
"""

from visionlora.adapters.torch.added import settle
from visionlora.adapters.torch.attach import adapter_tensors, attach, load_adapter_tensors
from visionlora.adapters.torch.batched import BatchedWeights
from visionlora.adapters.torch.factors import (
    factored_layers,
    frozen_weights,
    rate_left_factors,
    start_factors,
    weight_gradients,
)
from visionlora.adapters.torch.file import Adapter, load_adapter, save_adapter
from visionlora.adapters.torch.layers import Layer, SkippedLayer, adaptable_layers
from visionlora.adapters.torch.lycoris_import import from_lycoris
from visionlora.adapters.torch.merge import merge
from visionlora.adapters.torch.norms import LiveNorm, freeze_norms, kept_statistics, live_statistics, trained_state
from visionlora.adapters.torch.packed import frozen_bytes
from visionlora.adapters.torch.peft import peft_adapter
from visionlora.adapters.torch.peft_import import from_peft
from visionlora.adapters.torch.plan import AdapterPlan, full_rank_limit, layer_selector, plan_adapter

__all__ = [
    "Adapter",
    "AdapterPlan",
    "BatchedWeights",
    "Layer",
    "LiveNorm",
    "SkippedLayer",
    "adaptable_layers",
    "adapter_tensors",
    "attach",
    "factored_layers",
    "freeze_norms",
    "from_lycoris",
    "from_peft",
    "frozen_bytes",
    "frozen_weights",
    "full_rank_limit",
    "kept_statistics",
    "layer_selector",
    "live_statistics",
    "load_adapter",
    "load_adapter_tensors",
    "merge",
    "peft_adapter",
    "plan_adapter",
    "rate_left_factors",
    "save_adapter",
    "settle",
    "start_factors",
    "trained_state",
    "weight_gradients",
]
