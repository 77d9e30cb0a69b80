"""A detector in a LiteRT file that visionlora exported, executed on the CPU; the library is optional."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.runtime.batch import check_batch


class LiteRtNetwork:
    """A detector in a `.tflite` file that visionlora exported.

    Attributes:
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
        self._path = Path(path)
        self.metadata = read_card(self._path)
        self.names, self.nms = tuple(self.metadata["names"]), bool(self.metadata["nms"])
        self.image_size = int(self.metadata["preprocessing"]["image_size"])
        self._interpreter = _load(self._path, threads)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map (n, 3, S, S) RGB in [0, 1] to (n, 4 + classes, anchors): cx, cy, w, h in pixels, then scores.

        Raises:
            UsageError: `batch` is not of this shape.
        """
        check_batch(self._path, batch, self.image_size)
        return np.concatenate([self._run(picture[None]) for picture in batch])

    def _run(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(picture, dtype=np.float32))
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


def read_card(path: Path) -> Any:
    """Return the card in a `.tflite` file that visionlora exported.

    Raises:
        ModelError: the file is missing, broken or of another maker.
    """
    if not path.is_file():
        raise ModelError(f"{path}: expected a LiteRT file, found none")
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(json.loads(archive.read("metadata.json"))["visionlora"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
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
