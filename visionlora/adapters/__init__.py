"""The adapter without torch: card and file, arithmetic in numpy, and how a base was folded into an ONNX file.

What a device needs to turn a base and an adapter into a detector. `visionlora.adapters.torch` does the same on torch
modules, with this arithmetic.
"""

from visionlora.adapters.arithmetic import can_be_trained, low_rank_delta, scaled_channels
from visionlora.adapters.card import MAP50, MAP50_95, AdapterCard, AdapterSettings
from visionlora.adapters.file import ArrayAdapter, adapter_identity, load_arrays, read_adapter_card, save_arrays
from visionlora.adapters.folded_base import FoldedBase, FoldedNorm, read_folded_base

__all__ = [
    "MAP50",
    "MAP50_95",
    "AdapterCard",
    "AdapterSettings",
    "ArrayAdapter",
    "FoldedBase",
    "FoldedNorm",
    "adapter_identity",
    "can_be_trained",
    "load_arrays",
    "low_rank_delta",
    "read_adapter_card",
    "read_folded_base",
    "save_arrays",
    "scaled_channels",
]
