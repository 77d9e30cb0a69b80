"""The ways to train a detector that the benchmarks compare, by name: visionlora's methods, and what they rival."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from injected import INJECTED

from visionlora.adapters.base_precision import PRECISIONS
from visionlora.adapters.methods import METHODS, setting_names

ROUNDED = tuple(f"lora-{name}" for name in PRECISIONS)
NEAR = ("lora", *ROUNDED)
VARIED: Mapping[str, Mapping[str, Any]] = {
    "lora-principal": {"start": "principal"},
    "lora-gradient": {"start": "gradient"},
    "lora-plus": {"lora_plus": 4.0},
    "lora-plus16": {"lora_plus": 16.0},
    "lora-gradient-plus": {"start": "gradient", "lora_plus": 4.0},
    "conv-adapter-serial": {"method": "conv-adapter", "form": "serial"},
}
OWN = (*NEAR, "auto", *VARIED, *(name for name in METHODS if name != "lora"))
"""`lora` has the recipe `near`, as has `lora-nf4`, on a base in NF4, and so on; all others have the recipe that the
pictures ask for, `auto` LoRA at the learning rate of that recipe. `VARIED` says what the methods of these names differ
in."""
PARTS = ("full", "freeze10", "head")
RIVALS = (*PARTS, *INJECTED)

_RIVALS = (*(name for name in INJECTED if name != "lycoris-locon"), "lycoris-locon")  # which computes what `peft` does
_METHODS = (
    "lora",
    *(name for name in METHODS if name not in ("lora", "conv-adapter")),
    "conv-adapter",
    "conv-adapter-serial",
    "lora-principal",
    "lora-gradient",
    "lora-plus",
)
COMPARED = tuple(way for pair in zip_longest(_METHODS, _RIVALS) for way in pair if way is not None)
"""What the benchmark of methods compares, beside `full`: in turns, since others' steps wait for the CPU, ours for the
GPU."""


def own_settings(way: str) -> dict[str, Any]:
    """Return the settings of `train` that make a way of visionlora what it is.

    Example:
        >>> own_settings("lora-principal")
        {'method': 'lora', 'recipe': 'auto', 'start': 'principal'}
    """
    settings: dict[str, Any] = {
        "method": way if way in METHODS else "lora",
        "recipe": "near" if way in NEAR else "auto",
    }
    if way in ROUNDED:
        settings["base_precision"] = way.removeprefix("lora-")
    return {**settings, **VARIED.get(way, {})}


def is_ranked(way: str) -> bool:
    """Whether the rank sets the size of a way's adapter."""
    if way in INJECTED:
        return INJECTED[way].ranked
    return way in OWN and "rank" in setting_names(METHODS[own_settings(way)["method"]])
