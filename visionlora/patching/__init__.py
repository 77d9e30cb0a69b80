"""An exported base and adapters for it, on the device: a patched file, or a bank of them. Never imports torch."""

from visionlora.patching.bank import AdapterBank
from visionlora.patching.patching import PatchedModel, patch, rollback

__all__ = ["AdapterBank", "PatchedModel", "patch", "rollback"]
