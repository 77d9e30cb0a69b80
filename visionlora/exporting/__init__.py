"""Files for others: an adapter merged into its base or as PEFT's, a checkpoint as ONNX, and ONNX in other formats."""

from visionlora.exporting.exporting import ExportedModel, export, write_graph
from visionlora.exporting.merging import MergedModel, merge
from visionlora.exporting.peft import ExportedAdapter, ImportedAdapter, export_adapter, import_adapter

__all__ = [
    "ExportedAdapter",
    "ExportedModel",
    "ImportedAdapter",
    "MergedModel",
    "export",
    "export_adapter",
    "import_adapter",
    "merge",
    "write_graph",
]
