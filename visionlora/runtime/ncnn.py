"""A detector in an ncnn file, executed on the CPU; the library is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError, UsageError
from visionlora.formats.kinds import WEIGHTS
from visionlora.formats.text import class_words
from visionlora.runtime.batch import check_batch, check_count, checked_outputs
from visionlora.runtime.description import Stated, described_beside
from visionlora.tasks import RawPrediction, Task


class NcnnNetwork:
    """A detector in an ncnn file (`.param` with its `.bin`) beside its description.

    Attributes:
        path: the file.
        task: what it finds.
        names: one name a class.
        image_size: side of the square input in pixels.
        nms: whether its predictions need non-maximum suppression.
        metadata: the card that visionlora wrote; None for a file of another maker.
    """

    nms = True
    batch: int | None = None
    cut: float | None = None
    precision: str | None = None

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        """Load a file.

        Args:
            path: the `.param` file that visionlora or Ultralytics exported.
            threads: how many threads one call may use; None leaves it to ncnn (all cores).

        Raises:
            ModelError: ncnn is not installed, or a file is missing or broken, or of another task.
            UsageError: `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads: expected at least 1, got {threads}")
        self.path = Path(path)
        described = described_beside(self.path)
        self.names, self.image_size, self.metadata = described.names, described.image_size, described.card
        self.task = described.task
        self._library, self._net = _load(self.path, threads)
        self._input, self._outputs = _ends(self.path, self._net, self.task)
        shape = self._run(np.zeros((3, self.image_size, self.image_size), dtype=np.float32))[0].shape[1:]
        says = described.stated if self.metadata is None else Stated()
        rows = self.task.rows(len(self.names))
        if says.end_to_end or shape[0] != rows:
            raise ModelError(
                f"{path}: expected an output ({rows}, anchors) for {class_words(len(self.names))}, "
                f"got {'final detections' if says.end_to_end else shape}"
            )

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        """Map (n, 3, S, S) RGB in [0, 1] to the raw prediction of its task.

        Raises:
            UsageError: `batch` is not of this shape.
            ModelError: ncnn fails on the graph.
        """
        check_batch(self.path, batch, self.image_size)
        return tuple(map(np.concatenate, zip(*map(self._run, batch), strict=True)))

    def _run(self, picture: NDArray[np.float32]) -> RawPrediction:
        extractor = self._net.create_extractor()
        # the copy: ncnn's matrix borrows the memory
        pixels = np.array(picture, dtype=np.float32, order="C")
        extractor.input(self._input, self._library.Mat(pixels))
        outputs = []
        for name in self._outputs:
            failed, output = extractor.extract(name)
            if failed:
                raise ModelError(f"{self.path}: ncnn cannot run it (code {failed})")
            outputs.append(np.array(output, dtype=np.float32)[None])
        return checked_outputs(self.path, self.task, outputs, 1)


def _load(path: Path, threads: int | None) -> tuple[Any, Any]:
    try:
        import ncnn
    except ModuleNotFoundError as error:
        raise ModelError(f"{path}: ncnn is not installed; pip install ncnn") from error
    net = ncnn.Net()
    if threads is not None:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(WEIGHTS))):
        raise ModelError(f"{path}: expected an ncnn model, ncnn cannot load it")
    return ncnn, net


def _ends(path: Path, net: Any, task: Task) -> tuple[str, list[str]]:
    """The names of a network's input and of its outputs, which pnnx numbers: `out0`, `out1`."""
    try:
        inputs, outputs = net.input_names(), net.output_names()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: expected an ncnn model with an input and an output, found none") from error
    check_count(path, task, len(inputs), len(outputs))
    return inputs[0], sorted(outputs)
