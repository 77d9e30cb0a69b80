"""Opening a model of any kind as a Network, and saying which file it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from visionlora.detectors import family_of
from visionlora.errors import UsageError
from visionlora.formats.kinds import ADAPTER, CHECKPOINT, KINDS, ONNX, FileKind
from visionlora.formats.text import printable
from visionlora.hub import is_hub_name, local_file, typed
from visionlora.vision.inference import Network, try_out

_OPENVINO = "openvino:"


@dataclass(frozen=True)
class ModelSpec:
    """What to evaluate: a checkpoint, an exported file, or a base with an adapter; and what to call it.

    Attributes:
        label: what to call it.
        path: the file; of a base with an adapter, the base's.
        adapter: the adapter's file, if there is one.
        in_openvino: whether an ONNX file is to be run by OpenVINO instead of onnxruntime.

    Raises:
        UsageError: the label is empty, a file's suffix is unknown, or an adapter stands without its base.
    """

    label: str
    path: Path
    adapter: Path | None = None
    in_openvino: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            raise UsageError(f"{self.path}: the label before '=' is empty")
        if self.path.suffix == ADAPTER.suffix:
            raise UsageError(f"{self.path}: an adapter needs its base: write base.pt+{self.path.name}")
        if self.path.suffix not in KINDS:
            *others, last = KINDS
            meant = "" if self.path.suffix else f"; did you mean {self.path}{CHECKPOINT.suffix}?"
            raise UsageError(
                f"{self.path}: expected a {', '.join(others)} or {last} file, or base.pt+adapter.safetensors{meant}"
            )
        if self.in_openvino and self.kind is not ONNX:
            raise UsageError(f"{self.path}: expected an .onnx file after {_OPENVINO!r}")
        if self.adapter is not None and self.kind is not CHECKPOINT:
            raise UsageError(f"{self.path}: an adapter belongs to a .pt base; an ONNX file has it merged in")

    @property
    def kind(self) -> FileKind:
        """What kind of file `path` is."""
        return KINDS[self.path.suffix]

    @property
    def file(self) -> Path:
        """The file that makes this model what it is: the adapter where there is one."""
        return self.adapter or self.path

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files that hold this model's own bytes: `file`, and the weights beside an OpenVINO or ncnn model."""
        return self.kind.parts(self.file)

    @property
    def runtime(self) -> str:
        """What executes it: `torch`, `onnxruntime`, `openvino`, `ncnn` or `litert`."""
        return "openvino" if self.in_openvino else self.kind.runtime


def parse_spec(text: str | Path) -> ModelSpec:
    """Read `path`, `base.pt+adapter.safetensors` or `openvino:model.onnx`, or one of them after `label=`.

    Without a label a model is called by its file's name. A path may be a name on the hub, which is fetched.

    Raises:
        UsageError: the text names no model.
        HubError: a file on the hub cannot be fetched.

    Example:
        >>> spec = parse_spec("steel=yolo11n.pt+runs/steel/adapter.safetensors")
        >>> spec.label, spec.path.name, spec.adapter.name
        ('steel', 'yolo11n.pt', 'adapter.safetensors')
    """
    text = typed(text)
    label, separator, rest = text.partition("=")
    if not separator or "/" in label or Path(text).exists():  # a path may hold an equals sign
        label, rest = "", text
    named, in_openvino = rest != text, rest.startswith(_OPENVINO)
    rest = rest.removeprefix(_OPENVINO)
    base, plus, adapter = rest.rpartition("+")
    with_adapter = bool(plus) and (rest.endswith(ADAPTER.suffix) or is_hub_name(adapter))
    kinds = [CHECKPOINT] if with_adapter else [ONNX] if in_openvino else KINDS.values()
    path = Path(local_file(base if with_adapter else rest, *kinds))
    file = Path(local_file(adapter, ADAPTER)) if with_adapter else path
    own_name = f"{_OPENVINO}{file.name}" if in_openvino else file.name
    return ModelSpec(printable(label if named else own_name), path, file if with_adapter else None, in_openvino)


def parse_specs(texts: Sequence[str | Path]) -> list[ModelSpec]:
    """Read several models; those whose file names are equal are called by what was typed.

    Raises:
        UsageError: there is none, one names no model, or two have the same label.
        HubError: a file on the hub cannot be fetched.
    """
    specs = [parse_spec(text) for text in texts]
    if not specs:
        raise UsageError("expected at least one model, got none")
    labels = [spec.label for spec in specs]
    for index, (spec, text) in enumerate(zip(specs, texts, strict=True)):
        if labels.count(spec.label) > 1 and spec.label in map(printable, (spec.file.name, _OPENVINO + spec.file.name)):
            specs[index] = replace(spec, label=printable(text))
    labels = [spec.label for spec in specs]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise UsageError(f"two models are called {repeated[0]!r}; tell them apart with label=path")
    return specs


def open_network(
    spec: ModelSpec | str | Path, *, image_size: int | None = None, device: str = "cpu", threads: int | None = None
) -> Network:
    """Open a checkpoint, an exported file, or a base with an adapter.

    torch is loaded for checkpoints only, other runtimes for their files only.

    Args:
        spec: what to open; a string is read by `parse_spec`.
        image_size: side of the input in pixels; None takes what the file says.
        device: for checkpoints; other files run on the CPU.
        threads: how many threads one call of an exported file may use; None leaves it to the runtime.

    Raises:
        UsageError: an exported file has another image size than the one asked for.
        ModelError: the file cannot be used.
        AdapterError: the adapter does not belong to the base.
    """
    if not isinstance(spec, ModelSpec):
        spec = parse_spec(spec)
    if spec.kind is not CHECKPOINT:
        from visionlora.runtime import open_exported

        network: Network = open_exported(spec.path, spec.runtime, threads=threads)
        if image_size is not None and network.image_size != image_size:
            raise UsageError(
                f"{spec.path}: made for {network.image_size} px, but {image_size} px were asked for; "
                f"export it again with --imgsz {image_size}"
            )
        return network
    checkpoint = family_of(spec.path).open(spec.path, adapter=spec.adapter, image_size=image_size, device=device)
    try_out(checkpoint)
    return checkpoint
