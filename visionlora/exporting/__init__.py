"""Files for others: an adapter merged or as others read it, a checkpoint as ONNX, and ONNX in other formats."""

from visionlora.exporting.adapter_results import ExportedAdapter, ImportedAdapter
from visionlora.exporting.adapters import export_adapter, import_adapter
from visionlora.exporting.exporting import ExportedModel, export, write_graph
from visionlora.exporting.merging import MergedModel, merge

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
