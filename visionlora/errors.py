"""The exception tree: everything visionlora raises on purpose derives from VisionLoraError.

A message says what was expected, what came, where, and what to do. The command line prints it on one line
(label problems: one line each) and exits with code 1; UsageError exits with code 2.
"""

from __future__ import annotations


class VisionLoraError(Exception):
    """Any error that visionlora raises on purpose."""


class UsageError(VisionLoraError):
    """An option or argument is wrong in itself, whatever the files hold."""


class DataError(VisionLoraError):
    """A data set cannot be used: its data.yaml, its images or its labels are wrong."""


class ModelError(VisionLoraError):
    """A model file cannot be used: unreadable, of another task, or not of the expected kind."""


class AdapterError(VisionLoraError):
    """An adapter cannot be used: unreadable, or made for another base."""


class HubError(VisionLoraError):
    """The Hugging Face hub cannot be reached, has not what was asked for, or does not allow it."""


class ExportError(VisionLoraError):
    """An exported model does not reproduce its source."""


class QuantizationError(VisionLoraError):
    """A quantized model fails a check, so that it must not be shipped."""


class OutputError(VisionLoraError):
    """An output exists already, or cannot be written."""
