"""The adapter methods, one file each."""

from collections.abc import Mapping

from visionlora.adapters.methods.lora import LoRA
from visionlora.adapters.methods.method import Arrays, Batch, Method

METHODS: Mapping[str, type[Method]] = {method.name: method for method in (LoRA,)}
"""All methods by the names that cards and the command line use."""

__all__ = ["METHODS", "Arrays", "Batch", "LoRA", "Method"]
