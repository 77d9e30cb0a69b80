"""The kinds of files that hold a model: how each is called, what executes it, and what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

METADATA = "metadata.yaml"
"""Beside the one OpenVINO or ncnn model of a folder: what Ultralytics writes about it."""
OWN_METADATA = f".{METADATA}"
"""Suffix of the same with visionlora's card, in place of the model's: `model.metadata.yaml` beside `model.xml`."""
WEIGHTS = ".bin"
"""Suffix of the weights of an OpenVINO or ncnn model, in place of the model's."""
_ULTRALYTICS_FOLDERS = ("_openvino_model", "_ncnn_model")
"""How the name of a folder ends that Ultralytics opens as one model; it reads `metadata.yaml` there."""


@dataclass(frozen=True)
class FileKind:
    """A kind of model file. Its card is inside, or beside it where the weights are beside it.

    Attributes:
        name: what `export --format` and a card call it.
        suffix: how the name of the file ends that is to be written or run.
        runtime: what executes it where no other is asked for, as `visionlora.runtime.open_exported` knows it.
        weights: how the name of the file beside it that holds its weights ends; empty where they are inside.
    """

    name: str
    suffix: str
    runtime: str
    weights: str = ""

    def parts(self, path: Path) -> tuple[Path, ...]:
        """Return the files that hold a model's own bytes: `path`, and its weights where they are beside it."""
        return (path, path.with_suffix(self.weights)) if self.weights else (path,)

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files of an exported model: the weights and the description first, `path` last."""
        if not self.weights:
            return (path,)
        described = [path.with_suffix(OWN_METADATA)]
        if path.absolute().parent.name.endswith(_ULTRALYTICS_FOLDERS):
            described.append(path.with_name(METADATA))
        return path.with_suffix(self.weights), *described, path


CHECKPOINT = FileKind("checkpoint", ".pt", runtime="torch")
ONNX = FileKind("onnx", ".onnx", runtime="onnxruntime")
OPENVINO = FileKind("openvino", ".xml", runtime="openvino", weights=WEIGHTS)
NCNN = FileKind("ncnn", ".param", runtime="ncnn", weights=WEIGHTS)
LITERT = FileKind("litert", ".tflite", runtime="litert")

EXPORTED = {kind.name: kind for kind in (ONNX, OPENVINO, NCNN, LITERT)}
"""What `export` writes, by name."""
KINDS = {kind.suffix: kind for kind in (CHECKPOINT, *EXPORTED.values())}
"""What can be opened, by suffix."""
