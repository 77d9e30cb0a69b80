"""A detector that OpenVINO executes on the CPU, from its own file or from an ONNX file; the library is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.isolation import isolate_openvino
from visionlora.runtime.batch import check_batch, run_in_steps
from visionlora.runtime.description import described_beside, described_inside
from visionlora.runtime.finished import one_hot


class OpenVinoNetwork:
    """A detector in an OpenVINO file (`.xml` with its `.bin`) beside its description, or in an ONNX file.

    It runs in the precision that OpenVINO chooses for this processor, as it would when deployed.

    Attributes:
        names: one name a class.
        image_size: side of the square input in pixels.
        nms: whether its predictions need non-maximum suppression.
        metadata: the card that visionlora wrote; None for a file of another maker.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None, float32: bool = False) -> None:
        """Load a file.

        Args:
            path: the file that visionlora or Ultralytics exported.
            threads: how many threads one call may use; None leaves it to OpenVINO (all cores).
            float32: compute in float32, to compare with torch, even where OpenVINO would take bfloat16.

        Raises:
            ModelError: OpenVINO is not installed, or a file is missing or broken, or of another task.
            UsageError: `threads` is below 1.
        """
        self._path = Path(path)
        described = (described_inside if self._path.suffix == ".onnx" else described_beside)(self._path)
        self.names, self.image_size, self.metadata = described.names, described.image_size, described.card
        self._compiled = _compile(self._path, threads, float32=float32)
        shape = self._compiled.input(0).partial_shape
        self._batch: int | None = shape[0].get_length() if shape[0].is_static else None
        blank = np.zeros((self._batch or 1, 3, self.image_size, self.image_size), dtype=np.float32)
        found = self._run(blank).shape
        # Six anchors are impossible, so six columns are a finished detection's: Ultralytics' own criterion.
        self._end_to_end = len(found) == 3 and found[2] == 6
        if not self._end_to_end and (len(found) != 3 or found[1] != 4 + len(self.names)):
            raise ModelError(
                f"{path}: expected an output (n, {4 + len(self.names)}, anchors) for {len(self.names)} classes "
                f"or (n, boxes, 6), got {found}"
            )
        self.nms = not self._end_to_end

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map (n, 3, S, S) RGB in [0, 1] to (n, 4 + classes, anchors): cx, cy, w, h in pixels, then scores.

        Raises:
            UsageError: `batch` is not of this shape.
            ModelError: OpenVINO fails on the graph.
        """
        check_batch(self._path, batch, self.image_size)
        output = run_in_steps(self._run, batch, self._batch)
        return one_hot(self._path, output, len(self.names)) if self._end_to_end else output

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            output = self._compiled(np.ascontiguousarray(batch))[0]
        except RuntimeError as error:  # all of OpenVINO's errors are
            raise ModelError(f"{self._path}: OpenVINO cannot run it: {' '.join(str(error).split())}") from error
        return np.array(output, dtype=np.float32)  # a copy: the next call writes into the same memory


def _compile(path: Path, threads: int | None, *, float32: bool) -> Any:
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    isolate_openvino()
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: OpenVINO is not installed; pip install openvino") from error
    options: dict[str, Any] = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
    if float32:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        return openvino.Core().compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: expected an OpenVINO model, it cannot load it: {' '.join(str(error).split())}"
        ) from error
