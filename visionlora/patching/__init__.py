"""An exported base and adapters for it, on the device: a patched file, or a bank of them. Never imports torch."""

from visionlora.patching.bank import AdapterBank
from visionlora.patching.base import KEPT_ENTRY, PatchableBase, load_patchable
from visionlora.patching.inputs import INPUTS_SETTING, INPUTS_VERSION, graph_with_inputs, input_values
from visionlora.patching.keeping import KEEP, SHARED, KeptAdapter, check_keep
from visionlora.patching.kept_files import KeptFile, keep_adapters_in, list_adapters, remove_adapter
from visionlora.patching.patching import PatchedModel, patch, patched_content, rollback
from visionlora.patching.selftest import BaseAlone

__all__ = [
    "INPUTS_SETTING",
    "INPUTS_VERSION",
    "KEEP",
    "KEPT_ENTRY",
    "SHARED",
    "AdapterBank",
    "BaseAlone",
    "KeptAdapter",
    "KeptFile",
    "PatchableBase",
    "PatchedModel",
    "check_keep",
    "graph_with_inputs",
    "input_values",
    "keep_adapters_in",
    "list_adapters",
    "load_patchable",
    "patch",
    "patched_content",
    "remove_adapter",
    "rollback",
]
