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
    from visionlora.adapters.combining import CombinedAdapter
    from visionlora.benchmarking import Benchmark, bench
    from visionlora.bundling import Bundle, BundledModel, bundle, open_bundle, unbundle
    from visionlora.checking import DataCheck, check_data
    from visionlora.data import SplitData, split_data
    from visionlora.errors import (
        AdapterError,
        DataError,
        ExportError,
        HubError,
        ModelError,
        OutputError,
        QuantizationError,
        UsageError,
        VisionLoraError,
    )
    from visionlora.exporting import (
        ExportedAdapter,
        ExportedModel,
        ImportedAdapter,
        MergedModel,
        export,
        export_adapter,
        import_adapter,
        merge,
    )
    from visionlora.patching import (
        AdapterBank,
        KeptAdapter,
        KeptFile,
        PatchedModel,
        list_adapters,
        patch,
        remove_adapter,
        rollback,
    )
    from visionlora.prediction import Prediction, predict
    from visionlora.progress import Progress, progress_to
    from visionlora.publishing import PulledAdapter, PushedAdapter, pull, push
    from visionlora.quantization import QuantizedModel, quantize
    from visionlora.reporting import Report
    from visionlora.runtime import Detector
    from visionlora.training import PlannedRun, TrainedAdapter, TrainingPlan, plan, train
    from visionlora.trust import trusted
    from visionlora.vision.classification import Classification
    from visionlora.vision.detections import Detections
    from visionlora.workflows.adapting import AdaptedModel, BudgetMissed, adapt
    from visionlora.workflows.combining import merge_adapters, rank_adapter, scale_adapter
    from visionlora.workflows.comparing import Comparison, compare
    from visionlora.workflows.demonstrating import Demonstration, demo
    from visionlora.workflows.evaluating import evaluate
    from visionlora.workflows.inspecting import FileCard, inspect

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it when it is imported, in any room

_HOMES = {
    "AdaptedModel": "workflows.adapting",
    "AdapterBank": "patching",
    "AdapterError": "errors",
    "Benchmark": "benchmarking",
    "BudgetMissed": "workflows.adapting",
    "Bundle": "bundling",
    "BundledModel": "bundling",
    "Classification": "vision.classification",
    "CombinedAdapter": "adapters.combining",
    "Comparison": "workflows.comparing",
    "DataCheck": "checking",
    "DataError": "errors",
    "Demonstration": "workflows.demonstrating",
    "Detections": "vision.detections",
    "Detector": "runtime",
    "ExportError": "errors",
    "ExportedAdapter": "exporting",
    "ExportedModel": "exporting",
    "FileCard": "workflows.inspecting",
    "HubError": "errors",
    "ImportedAdapter": "exporting",
    "KeptAdapter": "patching",
    "KeptFile": "patching",
    "MergedModel": "exporting",
    "ModelError": "errors",
    "OutputError": "errors",
    "PatchedModel": "patching",
    "PlannedRun": "training",
    "Prediction": "prediction",
    "Progress": "progress",
    "PulledAdapter": "publishing",
    "PushedAdapter": "publishing",
    "QuantizationError": "errors",
    "QuantizedModel": "quantization",
    "Report": "reporting",
    "SplitData": "data",
    "TrainedAdapter": "training",
    "TrainingPlan": "training",
    "UsageError": "errors",
    "VisionLoraError": "errors",
    "adapt": "workflows.adapting",
    "bench": "benchmarking",
    "bundle": "bundling",
    "check_data": "checking",
    "compare": "workflows.comparing",
    "demo": "workflows.demonstrating",
    "evaluate": "workflows.evaluating",
    "export": "exporting",
    "export_adapter": "exporting",
    "import_adapter": "exporting",
    "inspect": "workflows.inspecting",
    "list_adapters": "patching",
    "merge": "exporting",
    "merge_adapters": "workflows.combining",
    "open_bundle": "bundling",
    "patch": "patching",
    "plan": "training",
    "predict": "prediction",
    "progress_to": "progress",
    "pull": "publishing",
    "push": "publishing",
    "quantize": "quantization",
    "rank_adapter": "workflows.combining",
    "remove_adapter": "patching",
    "rollback": "patching",
    "scale_adapter": "workflows.combining",
    "split_data": "data",
    "train": "training",
    "trusted": "trust",
    "unbundle": "bundling",
}

__all__ = [
    "AdaptedModel",
    "AdapterBank",
    "AdapterError",
    "Benchmark",
    "BudgetMissed",
    "Bundle",
    "BundledModel",
    "Classification",
    "CombinedAdapter",
    "Comparison",
    "DataCheck",
    "DataError",
    "Demonstration",
    "Detections",
    "Detector",
    "ExportError",
    "ExportedAdapter",
    "ExportedModel",
    "FileCard",
    "HubError",
    "ImportedAdapter",
    "KeptAdapter",
    "KeptFile",
    "MergedModel",
    "ModelError",
    "OutputError",
    "PatchedModel",
    "PlannedRun",
    "Prediction",
    "Progress",
    "PulledAdapter",
    "PushedAdapter",
    "QuantizationError",
    "QuantizedModel",
    "Report",
    "SplitData",
    "TrainedAdapter",
    "TrainingPlan",
    "UsageError",
    "VisionLoraError",
    "adapt",
    "bench",
    "bundle",
    "check_data",
    "compare",
    "demo",
    "evaluate",
    "export",
    "export_adapter",
    "import_adapter",
    "inspect",
    "list_adapters",
    "merge",
    "merge_adapters",
    "open_bundle",
    "patch",
    "plan",
    "predict",
    "progress_to",
    "pull",
    "push",
    "quantize",
    "rank_adapter",
    "remove_adapter",
    "rollback",
    "scale_adapter",
    "split_data",
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
