"""LoRA adapters for YOLO detectors: train, merge, quantize to INT8 ONNX, and judge every stage with one ruler.

One function a verb of the command line, with the same names and defaults. Importing this package loads neither torch
nor Ultralytics; a function loads what it needs.

Example:
    >>> import visionlora as vl
    >>> "train" in vl.__all__
    True
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionlora.adapting import AdaptedModel, adapt
    from visionlora.benchmarking import Benchmark, bench
    from visionlora.bundling import Bundle, BundledModel, bundle, open_bundle, unbundle
    from visionlora.comparing import Comparison, compare
    from visionlora.demonstration.run import Demonstration, demo
    from visionlora.detections import Detections
    from visionlora.errors import (
        AdapterError,
        DataError,
        ExportError,
        ModelError,
        OutputError,
        QuantizationError,
        UsageError,
        VisionLoraError,
    )
    from visionlora.evaluation import Report, evaluate
    from visionlora.exporting import ExportedModel, export
    from visionlora.inspection import FileCard, inspect
    from visionlora.lowrank.combining import CombinedAdapter, merge_adapters, rank_adapter, scale_adapter
    from visionlora.merging import MergedModel, merge
    from visionlora.patching import AdapterBank, PatchedModel, patch, rollback
    from visionlora.planning import PlannedRun, TrainingPlan, plan
    from visionlora.prediction import Prediction, predict
    from visionlora.quantization import QuantizedModel, quantize
    from visionlora.runtime import Detector
    from visionlora.training import TrainedAdapter, train
    from visionlora.trust import trusted

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it when it is imported, in any room

_HOMES = {
    "AdaptedModel": "adapting",
    "AdapterBank": "patching",
    "AdapterError": "errors",
    "Benchmark": "benchmarking",
    "Bundle": "bundling",
    "BundledModel": "bundling",
    "CombinedAdapter": "lowrank.combining",
    "Comparison": "comparing",
    "DataError": "errors",
    "Demonstration": "demonstration.run",
    "Detections": "detections",
    "Detector": "runtime",
    "ExportError": "errors",
    "ExportedModel": "exporting",
    "FileCard": "inspection",
    "MergedModel": "merging",
    "ModelError": "errors",
    "OutputError": "errors",
    "PatchedModel": "patching",
    "PlannedRun": "planning",
    "Prediction": "prediction",
    "QuantizationError": "errors",
    "QuantizedModel": "quantization",
    "Report": "evaluation",
    "TrainedAdapter": "training",
    "TrainingPlan": "planning",
    "UsageError": "errors",
    "VisionLoraError": "errors",
    "adapt": "adapting",
    "bench": "benchmarking",
    "bundle": "bundling",
    "compare": "comparing",
    "demo": "demonstration.run",
    "evaluate": "evaluation",
    "export": "exporting",
    "inspect": "inspection",
    "merge": "merging",
    "merge_adapters": "lowrank.combining",
    "open_bundle": "bundling",
    "patch": "patching",
    "plan": "planning",
    "predict": "prediction",
    "quantize": "quantization",
    "rank_adapter": "lowrank.combining",
    "rollback": "patching",
    "scale_adapter": "lowrank.combining",
    "train": "training",
    "trusted": "trust",
    "unbundle": "bundling",
}

__all__ = [
    "AdaptedModel",
    "AdapterBank",
    "AdapterError",
    "Benchmark",
    "Bundle",
    "BundledModel",
    "CombinedAdapter",
    "Comparison",
    "DataError",
    "Demonstration",
    "Detections",
    "Detector",
    "ExportError",
    "ExportedModel",
    "FileCard",
    "MergedModel",
    "ModelError",
    "OutputError",
    "PatchedModel",
    "PlannedRun",
    "Prediction",
    "QuantizationError",
    "QuantizedModel",
    "Report",
    "TrainedAdapter",
    "TrainingPlan",
    "UsageError",
    "VisionLoraError",
    "adapt",
    "bench",
    "bundle",
    "compare",
    "demo",
    "evaluate",
    "export",
    "inspect",
    "merge",
    "merge_adapters",
    "open_bundle",
    "patch",
    "plan",
    "predict",
    "quantize",
    "rank_adapter",
    "rollback",
    "scale_adapter",
    "train",
    "trusted",
    "unbundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
