"""An exported base and adapters for it, on the device: a patched file, or a bank of them. Never imports torch."""

from visionlora.patching.bank import AdapterBank
from visionlora.patching.base import PatchableBase, load_patchable
from visionlora.patching.inputs import INPUTS_SETTING, INPUTS_VERSION, graph_with_inputs, input_values
from visionlora.patching.patching import PatchedModel, patch, patched_content, rollback

__all__ = [
    "INPUTS_SETTING",
    "INPUTS_VERSION",
    "AdapterBank",
    "PatchableBase",
    "PatchedModel",
    "graph_with_inputs",
    "input_values",
    "load_patchable",
    "patch",
    "patched_content",
    "rollback",
]
