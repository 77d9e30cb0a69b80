"""A detector in a LiteRT file that visionlora exported, executed on the CPU; the library is optional."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import class_names, class_words
from visionlora.runtime.batch import check_batch, check_count, checked_outputs
from visionlora.runtime.description import stated_task
from visionlora.tasks import RawPrediction

_MAX_METADATA_BYTES = 4 << 20


class LiteRtNetwork:
    """A detector in a `.tflite` file that visionlora exported.

    Attributes:
        path: the file.
        task: what it finds.
        names: one name a class.
        image_size: side of the square input in pixels.
        nms: whether its predictions need non-maximum suppression.
        metadata: the card that visionlora wrote.
    """

    batch: int | None = None
    cut: float | None = None
    precision: str | None = None

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        """Load a file.

        Args:
            path: the file.
            threads: how many threads one call may use; None leaves it to LiteRT.

        Raises:
            ModelError: LiteRT is not installed, or the file is missing, broken or of another maker.
            UsageError: `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads: expected at least 1, got {threads}")
        self.path = Path(path)
        self.metadata, fields = _read_metadata(self.path)
        self.task = stated_task(self.path, fields, self.metadata)
        self.names, self.nms = class_names(self.metadata["names"]), bool(self.metadata["nms"])
        self.image_size = int(self.metadata["preprocessing"]["image_size"])
        self._interpreter = _load(self.path, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        check_count(self.path, self.task, len(inputs), len(outputs))
        self._input = inputs[0]["index"]
        # by their names, which the converter numbers: `serving_default_output_0_output`
        self._outputs = [output["index"] for output in sorted(outputs, key=lambda output: output["name"])]
        shape = self._run(np.zeros((1, 3, self.image_size, self.image_size), dtype=np.float32))[0].shape
        rows = self.task.rows(len(self.names))
        if shape[1] != rows:
            raise ModelError(
                f"{path}: expected an output (1, {rows}, anchors) for {class_words(len(self.names))}, got {shape}"
            )

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        """Map (n, 3, S, S) RGB in [0, 1] to the raw prediction of its task.

        Raises:
            UsageError: `batch` is not of this shape.
            ModelError: LiteRT fails on the graph.
        """
        check_batch(self.path, batch, self.image_size)
        return tuple(map(np.concatenate, zip(*(self._run(picture[None]) for picture in batch), strict=True)))

    def _run(self, picture: NDArray[np.float32]) -> RawPrediction:
        try:
            self._interpreter.set_tensor(self._input, np.ascontiguousarray(picture, dtype=np.float32))
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{self.path}: LiteRT cannot run it: {' '.join(str(error).split())}") from error
        return checked_outputs(
            self.path, self.task, [self._interpreter.get_tensor(index) for index in self._outputs], 1
        )


def read_card(path: Path) -> Any:
    """Return the card in a `.tflite` file that visionlora exported.

    Raises:
        ModelError: the file is missing, broken or of another maker.
    """
    return _read_metadata(path)[0]


def _read_metadata(path: Path) -> tuple[Any, Any]:
    """Return the card, and the metadata fields that hold it."""
    if not path.is_file():
        raise ModelError(f"{path}: expected a LiteRT file, found none")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as entry:
            fields = parse_json(entry.read(_MAX_METADATA_BYTES))  # cut there, it is no JSON
        card = parse_json(fields["visionlora"])
        class_names(card["names"]), card["nms"]
        if type(card["preprocessing"]["image_size"]) is not int or card["preprocessing"]["image_size"] < 1:
            raise ValueError("expected image_size to be a number of pixels")
        return card, fields
    # A damaged archive fails in many ways: NotImplementedError, EOFError and zlib's error among them.
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelError(f"{path}: expected a LiteRT file that visionlora exported: {error!r}") from error


def _load(path: Path, threads: int | None) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: LiteRT is not installed; pip install ai-edge-litert") from error
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected a LiteRT model, it cannot be loaded: {' '.join(str(error).split())}"
        ) from error
    return interpreter
