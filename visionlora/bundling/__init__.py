"""Bundles: all that a device needs, in one folder or .zip, with hashes, a self-test and a signature. No torch."""

from visionlora.bundling.bundle import BundledModel, bundle
from visionlora.bundling.opening import Bundle, open_bundle, unbundle

__all__ = ["Bundle", "BundledModel", "bundle", "open_bundle", "unbundle"]
