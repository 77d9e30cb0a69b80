"""A detector in an ONNX file, executed by onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from visionlora.errors import ModelError, UsageError
from visionlora.formats.parsing import parse_json, parse_literal
from visionlora.formats.seal import check_entry, is_sealed
from visionlora.formats.text import class_names, is_unicode
from visionlora.runtime.batch import check_batch, check_count, checked_outputs, run_in_steps
from visionlora.runtime.description import Stated, stated, stated_task
from visionlora.runtime.end_to_end import is_end_to_end, lowest_score, one_hot
from visionlora.runtime.providers import Provider, Providers, check_started, resolve_providers
from visionlora.tasks import RawPrediction, Task, task_on

ORT_ERRORS = (
    ort.EPFail,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoModel,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
)
"""onnxruntime's exceptions, which have no common parent but Exception."""
MAX_INPUT_BYTES = 1 << 30
"""Largest input that a file may ask for: its own word, which may be a lie, decides how much memory is taken."""
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxNetwork:
    """A detector in an ONNX file: one that visionlora exported or quantized, or a stock Ultralytics export.

    A file whose input is pixels, (n, S, S, 3) uint8, is called as any other; `run_pixels` takes them as they are.

    Attributes:
        path: the file.
        task: what it finds.
        names: one name a class.
        image_size: side of the square input in pixels.
        batch: how many pictures the file is given at once: as its graph fixes it, or else as the metadata of a foreign
            file says, 1 where it does not; None for any number.
        cut: the confidence below which the file itself has dropped boxes, so that no lower score is ever found; None
            where it drops none. It is what the metadata says, or else Ultralytics' default, and never above a score
            that the file has given.
        nms: whether its predictions need non-maximum suppression.
        thresholds: the lowest score that counts of each class, as the file states them; None where it does not.
        metadata: the parsed `visionlora` entry of the file's metadata; None for a file of another maker.
        session: the onnxruntime session.
        takes_pixels: whether its input is (n, S, S, 3) uint8 and not (n, 3, S, S) in [0, 1].
    """

    cut: float | None = None
    precision: str | None = None

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int | None = None,
        providers: Providers = "cpu",
        content: bytes | None = None,
    ) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            threads: how many threads one call may use; None leaves it to onnxruntime (all cores).
            providers: what executes it, see `resolve_providers`.
            content: what the file would hold, where it is in memory only; `path` names it in messages.

        Raises:
            ModelError: the file is missing or broken, is of another task, or its input is not a square picture.
            UsageError: `threads` is below 1, or this onnxruntime has no such provider.
        """
        self.path = Path(path)
        self.session = _open_session(self.path, content, threads, resolve_providers(providers))
        properties = self.session.get_modelmeta().custom_metadata_map
        self.metadata = _own_metadata(self.path, properties)
        self.names = _names(self.path, properties, self.metadata)
        self.thresholds = _thresholds(self.path, self.metadata)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.task = _task(self.path, properties, self.metadata, [output.shape for output in outputs])
        check_count(self.path, self.task, len(inputs), len(outputs))
        if inputs[0].type not in _INPUT_TYPES:
            raise ModelError(f"{path}: expected a float or uint8 input, got {inputs[0].type}")
        self._input_name, self._input_type = inputs[0].name, _INPUT_TYPES[inputs[0].type]
        self.takes_pixels = self._input_type is np.uint8
        shape = inputs[0].shape
        if self.takes_pixels and len(shape) == 4:
            shape = [shape[0], shape[3], *shape[1:3]]
        self.image_size = _image_size(self.path, shape, properties, self.metadata)
        says = _stated(self.path, properties) if self.metadata is None else Stated(end_to_end=False)
        self.batch: int | None = shape[0] if isinstance(shape[0], int) else None
        if self.batch is None and self.metadata is None:
            self.batch = says.batch or 1  # suppression inside a graph is unrolled for this number of pictures
        needed = 4 * (self.batch or 1) * 3 * self.image_size**2
        if needed > MAX_INPUT_BYTES:
            raise ModelError(f"{path}: expected an input of at most {MAX_INPUT_BYTES} bytes, its graph wants {needed}")
        self._end_to_end = self._has_end_to_end_output(outputs[0].shape, says)
        self.cut = says.cut if self._end_to_end else None
        self.nms = bool(self.metadata["nms"]) if self.metadata else not self._end_to_end

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        """Map (n, 3, S, S) RGB in [0, 1] to the raw prediction of its task.

        Raises:
            UsageError: `batch` is not of this shape.
            ModelError: onnxruntime fails on the graph.
        """
        check_batch(self.path, batch, self.image_size)
        if self.takes_pixels:
            return self._run_all(np.rint(batch * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1))
        return self._run_all(batch)

    def run_pixels(self, pixels: NDArray[np.uint8]) -> RawPrediction:
        """Map (n, S, S, 3) RGB pixels, uint8, to what a call gives; for a file whose input they are.

        Raises:
            UsageError: the file's input is not pixels, or `pixels` is not of this shape and type.
            ModelError: onnxruntime fails on the graph.
        """
        side = self.image_size
        if not self.takes_pixels:
            raise UsageError(f"{self.path}: expected a file whose input is uint8, got one that takes float32")
        if pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3) or pixels.dtype != np.uint8 or not len(pixels):
            raise UsageError(
                f"{self.path}: expected pixels (n, {side}, {side}, 3) of uint8, got {pixels.shape} of {pixels.dtype}"
            )
        return self._run_all(pixels)

    def seconds_for_blank(self) -> float:
        """Return how long one run on a black picture takes."""
        blank = self._blank()
        start = time.perf_counter()
        self._run(blank)
        return time.perf_counter() - start

    def _run_all(self, batch: NDArray[Any]) -> RawPrediction:
        """Run a batch of any size; the file may fix another."""
        batch = np.ascontiguousarray(batch, dtype=self._input_type)
        first, *rest = run_in_steps(self._run, batch, self.batch)
        if self._end_to_end:
            if self.cut is not None:
                self.cut = min(self.cut, lowest_score(self.task, first))
            return (one_hot(self.path, self.task, first, len(self.names)), *rest)
        rows = self.task.rows(len(self.names))
        if first.shape[1] != rows:
            shape = f"(n, {rows}, anchors)" if self.task.boxes else f"(n, {rows})"
            raise ModelError(f"{self.path}: expected an output {shape}, its graph gave {first.shape}")
        return (first, *rest)

    def _run(self, batch: NDArray[Any]) -> RawPrediction:
        try:
            outputs = self.session.run(None, {self._input_name: batch})
        except ORT_ERRORS as error:
            raise ModelError(f"{self.path}: onnxruntime cannot run it: {_one_line(error)}") from error
        return checked_outputs(self.path, self.task, outputs, len(batch))

    def _blank(self) -> NDArray[Any]:
        side = self.image_size
        shape = (side, side, 3) if self.takes_pixels else (3, side, side)
        return np.zeros((self.batch or 1, *shape), dtype=self._input_type)

    def _has_end_to_end_output(self, shape: list[Any], says: Stated) -> bool:
        """Whether rows are final detections (n, boxes, columns) and not raw predictions (n, rows, anchors)."""
        if not self.task.boxes:
            return False
        trials: list[NDArray[np.float32]] = []
        known = len(shape) == 3 and all(isinstance(size, int) for size in shape[1:])
        if not known or (shape[2] == self.task.final_columns and says.end_to_end is None):
            blank = self._blank()
            noise = np.random.default_rng(0).random(blank.shape, dtype=np.float32)
            if self.takes_pixels:
                noise = noise * 255
            trials = [self._run(blank)[0], self._run(noise.astype(blank.dtype))[0]]
            shape = list(trials[0].shape)
        return is_end_to_end(self.path, self.task, tuple(shape), len(self.names), says, trials)


def _open_session(
    path: Path, content: bytes | None, threads: int | None, providers: list[Provider]
) -> onnxruntime.InferenceSession:
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    if content is None and not path.is_file():
        raise ModelError(f"{path}: expected an ONNX file, found none")
    try:
        sealed = is_sealed(path, content)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    try:
        if content is None and not is_unicode(str(path)):  # onnxruntime takes no such name
            content = path.read_bytes()
        source = str(path) if content is None else content
        # Without its fallback, in which onnxruntime goes on without the provider that was asked for, and prints.
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
        # text that is no UTF-8 fails here
        properties, _, _ = session.get_modelmeta().custom_metadata_map, session.get_inputs(), session.get_outputs()
    except (*ORT_ERRORS, ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{path}: expected an ONNX file, onnxruntime cannot load it: {_one_line(error)}") from error
    check_entry(path, properties, sealed=sealed)
    check_started(path, session, providers)
    return session


def _own_metadata(path: Path, properties: Mapping[str, str]) -> dict[str, Any] | None:
    """The parsed `visionlora` entry, or None where there is none."""
    if "visionlora" not in properties:
        return None
    try:
        metadata = parse_json(properties["visionlora"])
        version, preprocessing = metadata["format"], dict(metadata["preprocessing"])
        complete = isinstance(metadata["names"], list) and isinstance(metadata["nms"], bool)
        complete = complete and type(preprocessing.pop("image_size")) is int
        class_names(metadata["names"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: its visionlora metadata is broken: {error!r}") from error
    if version != 1:
        raise ModelError(f"{path}: expected format 1, got {version}; use the visionlora version that made the file")
    if not complete:
        raise ModelError(f"{path}: its visionlora metadata is broken: names, nms or image_size is of a wrong type")
    expected = task_on(metadata, path).preprocessing
    if preprocessing != expected:
        raise ModelError(f"{path}: expected the preprocessing {expected}, got {preprocessing}")
    return metadata


def _names(path: Path, properties: Mapping[str, str], metadata: dict[str, Any] | None) -> tuple[str, ...]:
    if metadata is not None:
        return tuple(metadata["names"])
    try:
        return class_names(parse_literal(properties["names"]))
    except (KeyError, ValueError) as error:
        reason = "" if isinstance(error, KeyError) else f" ({error})"
        raise ModelError(
            f"{path}: expected class names in the file's metadata, as visionlora and Ultralytics write them{reason}; "
            "add them: model.metadata_props.add(key='names', value=\"{0: 'scratch', 1: 'pit'}\")"
        ) from error


def _task(path: Path, properties: Mapping[str, str], metadata: dict[str, Any] | None, shapes: list[list[Any]]) -> Task:
    prototypes = shapes[1][1] if len(shapes) > 1 and len(shapes[1]) == 4 else None
    try:
        return stated_task(path, properties, metadata, prototypes if isinstance(prototypes, int) else None)
    except ValueError as error:
        raise ModelError(f"{path}: its metadata is broken: {error}") from error


def _stated(path: Path, properties: Mapping[str, str]) -> Stated:
    try:
        return stated(properties)
    except ValueError as error:
        raise ModelError(f"{path}: its metadata is broken: {error}") from error


def _thresholds(path: Path, metadata: dict[str, Any] | None) -> tuple[float, ...] | None:
    """The `thresholds` of the metadata: one number a class."""
    if metadata is None or "thresholds" not in metadata:
        return None
    given, classes = metadata["thresholds"], len(metadata["names"])
    numbers = isinstance(given, list) and all(type(value) in (int, float) and 0 <= value <= 1 for value in given)
    if not numbers or len(given) != classes:
        raise ModelError(f"{path}: expected {classes} thresholds in [0, 1] in its metadata, one a class, got {given}")
    return tuple(float(value) for value in given)


def _image_size(path: Path, shape: list[Any], properties: Mapping[str, str], metadata: dict[str, Any] | None) -> int:
    """Side of the input: from the graph, or where that leaves it open from the metadata."""
    size = shape[2:]
    if len(shape) == 4 and not all(isinstance(side, int) for side in size):
        try:
            size = (
                parse_literal(properties["imgsz"])
                if metadata is None
                else [metadata["preprocessing"]["image_size"]] * 2
            )
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"{path}: neither its graph nor its metadata ('imgsz') says the size of the input"
            ) from error
    size = [size] * 2 if isinstance(size, int) else size
    square = isinstance(size, list | tuple) and len(size) == 2 and isinstance(size[0], int) and size[0] == size[1] > 0
    if len(shape) != 4 or shape[1] != 3 or not square:
        raise ModelError(f"{path}: expected a square input (n, 3, S, S), got {shape} of {size}; export it square")
    if metadata is not None and size[0] != metadata["preprocessing"]["image_size"]:
        raise ModelError(
            f"{path}: its graph is for {size[0]} pixels, its metadata says {metadata['preprocessing']['image_size']}"
        )
    return int(size[0])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
