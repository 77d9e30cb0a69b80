"""Bundles: all that a device needs, in one folder or .zip, with hashes, a self-test and a signature. No torch.

A device opens bundles; what makes them is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visionlora.bundling.opening import Bundle, open_bundle, unbundle

if TYPE_CHECKING:
    from visionlora.bundling.making import BundledModel, bundle

__all__ = ["Bundle", "BundledModel", "bundle", "open_bundle", "unbundle"]


def __getattr__(name: str) -> Any:
    if name not in ("BundledModel", "bundle"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from visionlora.bundling import making

    return getattr(making, name)
