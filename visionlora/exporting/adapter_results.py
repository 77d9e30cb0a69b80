"""What exporting and importing an adapter gives back, and what reads one of another library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import AdapterPlan
from visionlora.formats.text import class_words, size_words

Reader = Callable[
    [nn.Module, AdapterPlan, Callable[[AdapterSettings], AdapterPlan]],
    tuple[AdapterSettings, dict[str, torch.Tensor]],
]
"""Returns settings and tensors of an adapter: of a base, the plan of all its layers, and its plan under settings."""


@dataclass(frozen=True)
class ExportedAdapter:
    """An adapter as another library reads it.

    Attributes:
        path: the folder of PEFT's files, or the file of onnxruntime's.
        names: its classes, in the order of the class outputs.
        factors: layers that are adapted by factors.
        whole: modules that are held whole: the class outputs, and for PEFT what its LoRA has no form for.
        bytes: size of the adapter's own files.
        graph: the ONNX file that takes it, for onnxruntime.
    """

    path: Path
    names: tuple[str, ...]
    factors: tuple[str, ...]
    whole: tuple[str, ...]
    bytes: int
    graph: Path | None = None

    def __str__(self) -> str:
        text = (
            f"{self.path}: {len(self.factors)} layers by factors, {len(self.whole)} modules whole, "
            f"{size_words(self.bytes)}"
        )
        return text if self.graph is None else f"{text}, for {self.graph}"


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter that was read from another library's files.

    Attributes:
        path: the adapter file.
        names: its classes, in the order of the class outputs.
        settings: its shape.
        bytes: size of the file.
    """

    path: Path
    names: tuple[str, ...]
    settings: AdapterSettings
    bytes: int

    def __str__(self) -> str:
        return f"{self.path}: {self.settings.method.words}; {size_words(self.bytes)}, {class_words(len(self.names))}"
