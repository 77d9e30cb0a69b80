"""The kinds of files that hold a model or an adapter: how each is called, what executes it, what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visionlora.errors import UsageError

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
    """A kind of file. Its card is inside, or beside it where the weights are beside it.

    Attributes:
        name: what `export --format` and a card call it.
        suffix: how the name of the file ends that is to be written or run.
        words: what a message calls one.
        runtime: what executes it where no other is asked for, as `visionlora.runtime.open_exported` knows it; empty for
            what is no detector.
        weights: how the name of the file beside it that holds its weights ends; empty where they are inside.
    """

    name: str
    suffix: str
    words: str
    runtime: str = ""
    weights: str = ""

    def check_out(self, out: Path) -> None:
        """Refuse a name that a file of this kind is to be written to.

        Raises:
            UsageError: it does not end so.
        """
        if out.suffix != self.suffix:
            raise UsageError(f"--out {out}: expected a name that ends in {self.suffix}")

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


ADAPTER = FileKind("adapter", ".safetensors", "a .safetensors file")
ONNX_ADAPTER = FileKind("onnx-adapter", ".onnx_adapter", "an adapter of onnxruntime")
"""Its card lies beside it, for the format has no place for one: `steel.json` beside `steel.onnx_adapter`."""
BUNDLE = FileKind("bundle", ".zip", "a bundle")
CHECKPOINT = FileKind("checkpoint", ".pt", "a checkpoint", runtime="torch")
ONNX = FileKind("onnx", ".onnx", "an ONNX file", runtime="onnxruntime")
OPENVINO = FileKind("openvino", ".xml", "an OpenVINO model", runtime="openvino", weights=WEIGHTS)
NCNN = FileKind("ncnn", ".param", "an ncnn model", runtime="ncnn", weights=WEIGHTS)
LITERT = FileKind("litert", ".tflite", "a LiteRT file", runtime="litert")

EXPORTED = {kind.name: kind for kind in (ONNX, OPENVINO, NCNN, LITERT)}
"""What `export` writes, by name."""
STATE_DICT = ".pth"
"""The other suffix of a checkpoint: of a state dict, as torchvision publishes them. It is read, never written."""
KINDS = {CHECKPOINT.suffix: CHECKPOINT, STATE_DICT: CHECKPOINT, **{kind.suffix: kind for kind in EXPORTED.values()}}
"""What can be opened as a detector, by suffix."""
FILES = {kind.suffix: kind for kind in (ADAPTER, ONNX_ADAPTER, BUNDLE, *KINDS.values())}
"""All, by suffix."""
