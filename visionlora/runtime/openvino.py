"""A detector that OpenVINO executes on the CPU, from its own file or from an ONNX file; the library is optional."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.formats.kinds import ONNX
from visionlora.isolation import isolate_openvino
from visionlora.runtime.batch import check_batch, check_count, checked_outputs, run_in_steps
from visionlora.runtime.description import Stated, described_beside, described_inside
from visionlora.runtime.end_to_end import is_end_to_end, lowest_score, one_hot
from visionlora.tasks import RawPrediction


class OpenVinoNetwork:
    """A detector in an OpenVINO file (`.xml` with its `.bin`) beside its description, or in an ONNX file.

    It runs in the precision that OpenVINO chooses for this processor, as it would when deployed.

    Attributes:
        path: the file.
        task: what it finds.
        names: one name a class.
        image_size: side of the square input in pixels.
        batch, cut: as those of `OnnxNetwork`.
        nms: whether its predictions need non-maximum suppression.
        metadata: the card that visionlora wrote; None for a file of another maker.
        precision: what OpenVINO computes in here where it may choose, such as `bf16` on processors with AMX.
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
        self.path = Path(path)
        described = (described_inside if self.path.suffix == ONNX.suffix else described_beside)(self.path)
        self.names, self.image_size, self.metadata = described.names, described.image_size, described.card
        self.task = described.task
        says = described.stated if self.metadata is None else Stated(end_to_end=False)
        self._compiled = _compile(self.path, threads, float32=float32)
        check_count(self.path, self.task, len(self._compiled.inputs), len(self._compiled.outputs))
        self.precision: str | None = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        shape = self._compiled.input(0).partial_shape
        self.batch: int | None = shape[0].get_length() if shape.rank.is_static and shape[0].is_static else None
        if self.batch is None and self.metadata is None:
            self.batch = says.batch or 1  # suppression inside a graph is unrolled for this number of pictures
        side = self.image_size
        blank = np.zeros((self.batch or 1, 3, side, side), dtype=np.float32)
        noise = np.random.default_rng(0).random(blank.shape, dtype=np.float32)
        trials = [self._run(blank)[0], self._run(noise)[0]]
        self._end_to_end = is_end_to_end(self.path, self.task, trials[0].shape, len(self.names), says, trials)
        self.cut = says.cut if self._end_to_end else None
        self.nms = not self._end_to_end

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        """Map (n, 3, S, S) RGB in [0, 1] to the raw prediction of its task.

        Raises:
            UsageError: `batch` is not of this shape.
            ModelError: OpenVINO fails on the graph.
        """
        check_batch(self.path, batch, self.image_size)
        first, *rest = run_in_steps(self._run, batch, self.batch)
        if not self._end_to_end:
            return (first, *rest)
        if self.cut is not None:
            self.cut = min(self.cut, lowest_score(self.task, first))
        return (one_hot(self.path, self.task, first, len(self.names)), *rest)

    def _run(self, batch: NDArray[np.float32]) -> RawPrediction:
        try:
            given = self._compiled(np.ascontiguousarray(batch))
            outputs = [np.array(given[index]) for index in range(len(given))]  # copies: the next call writes into it
        except RuntimeError as error:  # all of OpenVINO's errors are
            raise ModelError(f"{self.path}: OpenVINO cannot run it: {' '.join(str(error).split())}") from error
        return checked_outputs(self.path, self.task, outputs, len(batch))


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
        return _core(openvino).compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: expected an OpenVINO model, it cannot load it: {' '.join(str(error).split())}"
        ) from error


@functools.cache
def _core(openvino: Any) -> Any:
    """Return the one core of this process, which nothing ever unloads.

    OpenVINO gives the thread that loads its CPU plugin a stack for signals, and frees it where the plugin is unloaded.
    If another thread does that, as the collector of garbage may, the next signal ends the process without a word:
    Ctrl-C, or the end of a child (seen with 2026.4).
    """
    return openvino.Core()
