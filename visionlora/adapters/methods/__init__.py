"""The adapter methods, one file each."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from visionlora.adapters.methods.addition import Addition, AttentionSite, BlockSite, InputSite, LayerSite, Site
from visionlora.adapters.methods.bitfit import BitFit
from visionlora.adapters.methods.conv_adapter import FORMS, ConvAdapter
from visionlora.adapters.methods.dora import DoRA
from visionlora.adapters.methods.ia3 import IA3
from visionlora.adapters.methods.loha import LoHa
from visionlora.adapters.methods.lokr import LoKr
from visionlora.adapters.methods.lora import LoRA
from visionlora.adapters.methods.method import Arrays, Batch, Factor, Matrix, Method, Summable
from visionlora.adapters.methods.mona import Mona
from visionlora.adapters.methods.oft import OFT
from visionlora.adapters.methods.prefix import Prefix
from visionlora.adapters.methods.prompt import FeaturePrompt, Prompt
from visionlora.errors import UsageError

METHODS: Mapping[str, type[Method]] = {
    method.name: method
    for method in (LoRA, DoRA, LoHa, LoKr, OFT, IA3, BitFit, ConvAdapter, Mona, Prompt, FeaturePrompt, Prefix)
}
"""All methods by the names that cards and the command line use."""


def method_of(name: str, settings: Mapping[str, Any]) -> Method:
    """Return a method with its settings.

    Args:
        name: a key of `METHODS`.
        settings: of any method; one that is None is at its default.

    Raises:
        UsageError: there is no such method, it has no such setting, or one is out of range.

    Example:
        >>> method_of("lora", {"rank": 4, "alpha": None})
        LoRA(rank=4, alpha=4.0, full=0)
    """
    if name not in METHODS:
        raise UsageError(f"--method: expected one of {', '.join(METHODS)}, got {name!r:.40}")
    chosen = {each: value for each, value in settings.items() if value is not None}
    known = setting_names(METHODS[name])
    for each in chosen:
        if each not in known:
            option, *others = (own.replace("_", "-") for own in (each, *known))
            only = f"only {', '.join(others)}" if others else "and no other"
            raise UsageError(f"--{option}: the method {name} has no such setting, {only}; drop it")
    return METHODS[name](**chosen)


def method_for(name: str, settings: Mapping[str, Any], *, imgsz: int) -> Method:
    """Return a method with its settings for a training on square images of side `imgsz` in pixels, as `method_of` does.

    Raises:
        UsageError: as from `method_of`.
    """
    sized = name in METHODS and "imgsz" in setting_names(METHODS[name])
    return method_of(name, {**settings, "imgsz": imgsz} if sized else settings)


def setting_names(method: Any) -> tuple[str, ...]:
    """Return the names of the settings of a method, or of its class."""
    return tuple(each.name for each in fields(method))


__all__ = [
    "FORMS",
    "IA3",
    "METHODS",
    "OFT",
    "Addition",
    "Arrays",
    "AttentionSite",
    "Batch",
    "BitFit",
    "BlockSite",
    "ConvAdapter",
    "DoRA",
    "Factor",
    "FeaturePrompt",
    "InputSite",
    "LayerSite",
    "LoHa",
    "LoKr",
    "LoRA",
    "Matrix",
    "Method",
    "Mona",
    "Prefix",
    "Prompt",
    "Site",
    "Summable",
    "method_for",
    "method_of",
    "setting_names",
]
