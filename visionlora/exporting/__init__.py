"""Files for others: an adapter merged into its base, a checkpoint as ONNX, and ONNX in other formats."""

from visionlora.exporting.exporting import ExportedModel, export, write_graph
from visionlora.exporting.merging import MergedModel, merge

__all__ = [
    "ExportedModel",
    "MergedModel",
    "export",
    "merge",
    "write_graph",
]
