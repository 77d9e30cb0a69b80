"""The detector that an application imports: pictures in, detections out; onnxruntime, numpy and OpenCV alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import DataError, ModelError, UsageError
from visionlora.formats.kinds import ONNX
from visionlora.hub import local_file
from visionlora.runtime.frames import Frame, Source
from visionlora.runtime.network import OnnxNetwork
from visionlora.runtime.pictures import pixels_of
from visionlora.runtime.providers import CPU, Providers
from visionlora.runtime.streaming import available_cores, stream
from visionlora.tasks import one_image
from visionlora.vision.detections import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    PREDICTION_CONFIDENCE,
    Detections,
    Timing,
    as_numbers,
    check_thresholds,
)
from visionlora.vision.inference import check_predictions, try_out
from visionlora.vision.preprocess import as_tensor
from visionlora.vision.tiles import detect_in_tiles, tiling_of

if TYPE_CHECKING:
    import PIL.Image

Image: TypeAlias = "Path | str | NDArray[np.uint8] | PIL.Image.Image"
"""A file, a Pillow image, or (H, W, 3) uint8 BGR pixels as OpenCV gives them; (H, W) is grey."""


class Detector:
    """A detector in an ONNX file with everything around it. Several threads may share one.

    Attributes:
        network: what executes the file.
        names: one name a class.
        image_size: side of the network's square input in pixels.
        thresholds: the lowest score that counts, one number a class.

    Example:
        >>> import visionlora as vl
        >>> detector = vl.Detector("model.int8.onnx")  # doctest: +SKIP
        >>> detector.predict("picture.jpg").labels  # doctest: +SKIP
        ['scratch']
    """

    def __init__(
        self,
        model: Path | str | OnnxNetwork,
        *,
        providers: Providers = "cpu",
        threads: int | None = None,
        confidence: float | Sequence[float] | None = None,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        agnostic: bool = False,
        tile: int | None = None,
        overlap: float | None = None,
    ) -> None:
        """Load a file and try it on two pictures.

        Args:
            model: an ONNX file that visionlora or Ultralytics exported; or a network that is open already, which
                has its providers and threads.
            providers: what executes it: `cpu`, `cuda`, `tensorrt`, `openvino`..., or several in the order of
                preference, see `visionlora.runtime.providers.resolve_providers`.
            threads: CPU threads of one prediction; None for all cores.
            confidence: only scores greater than this count, one number or one a class; None for the file's own
                thresholds, and 0.25 where it has none.
            iou_threshold: two boxes of one class that overlap more are one object.
            max_detections: how many detections an image may have.
            agnostic: whether boxes of different classes suppress each other too.
            tile: look into tiles of this side in pixels too, beside the whole picture, each object once; None for
                the whole picture alone.
            overlap: share of a tile that the next one has too; None for 0.2.

        Raises:
            ModelError: the file is missing or broken, is no detector, gives what its metadata does not describe,
                no numbers or the same for every picture; or a provider could not be started.
            UsageError: an option is out of range, or this onnxruntime has no such provider.
        """
        self._opened_here = not isinstance(model, OnnxNetwork)
        if not isinstance(model, OnnxNetwork):
            model = local_file(model, ONNX)
        self._threads, self._file_state = threads, _state_of(model)
        self.network = (
            model if isinstance(model, OnnxNetwork) else OnnxNetwork(model, threads=threads, providers=providers)
        )
        self.names, self.image_size = self.network.names, self.network.image_size
        if confidence is not None and not self.network.task.boxes:
            raise UsageError(f"confidence: {self.network.path} gives the probabilities of all classes; leave it out")
        if confidence is None:
            confidence = PREDICTION_CONFIDENCE if self.network.thresholds is None else self.network.thresholds
        self.thresholds = _per_class(confidence, len(self.names))
        check_thresholds(self.thresholds, iou_threshold, max_detections)
        self._iou_threshold, self._max_detections, self._agnostic = iou_threshold, max_detections, agnostic
        self._tiling = tiling_of(tile, overlap)
        if self._tiling is not None and not self.network.task.boxes:
            raise UsageError(f"tile: {self.network.path} classifies whole pictures; leave it out")
        try_out(self.network)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, images: Image, *, confidence: float | Sequence[float] | None = None
    ) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[Image], *, confidence: float | Sequence[float] | None = None
    ) -> list[Detections]: ...

    def predict(self, images: Any, *, confidence: float | Sequence[float] | None = None) -> Any:
        """Find the objects in a picture, or in several.

        Args:
            images: a file, a Pillow image (turned as its EXIF says), or (H, W, 3) uint8 BGR or (H, W) grey pixels; or
                several: a sequence of these, or an array (N, H, W, 3).
            confidence: instead of the detector's thresholds, one number or one a class.

        Returns:
            Detections, best first, in pixels of the picture; a list of them for several pictures.

        Raises:
            DataError: a file cannot be read as a picture, or an array is none.
            UsageError: `confidence` is out of range.
            ModelError: the network fails, or gives what are no numbers.
        """
        if confidence is not None and not self.network.task.boxes:
            raise UsageError("confidence: a classifier gives the probabilities of all classes; leave it out")
        limits = self.thresholds if confidence is None else _per_class(confidence, len(self.names))
        check_thresholds(limits, self._iou_threshold, self._max_detections)
        one = not isinstance(images, Iterable) and hasattr(images, "convert")  # a Pillow image
        if one or isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim < 4):
            return self._detect([pixels_of(images)], limits, self.network)[0]
        if not isinstance(images, Iterable):
            raise UsageError(f"images: expected a path, an array or several of them, got {type(images).__name__}")
        # One picture a call is the fastest on CPUs, and bounds the memory whatever is asked for.
        step = self.network.batch or 1
        pending, found = list(images), []
        for start in range(0, len(pending), step):
            found += self._detect(
                [pixels_of(picture) for picture in pending[start : start + step]], limits, self.network
            )
        return found

    def stream(
        self,
        source: Source,
        *,
        watch: bool = False,
        workers: int | None = None,
        queue: int = 4,
        drop_oldest: bool | None = None,
        reconnect: float = 60.0,
        broken: Callable[[DataError], None] | None = None,
    ) -> Iterator[tuple[Frame, Detections]]:
        """Yield each frame of a source with what is found in it; see `visionlora.runtime.stream` for the options.

        On the CPU each worker finds in one thread of its own, which gives more frames a second than all threads
        on one frame, but each frame takes longer; `workers=1` works on one frame at a time with all threads.

        Raises:
            As `visionlora.runtime.stream`; ModelError: the network fails, or its file has changed since it was loaded.

        Example:
            >>> import visionlora as vl
            >>> for frame, found in vl.Detector("model.onnx").stream("line3", watch=True):  # doctest: +SKIP
            ...     print(frame.source, found.labels)
        """
        workers = available_cores() if workers is None else workers
        network = self.network if workers == 1 else self._single_threaded()

        def find(pixels: NDArray[np.uint8]) -> Detections:
            return self._detect([pixels], self.thresholds, network)[0]

        return stream(
            source,
            find,
            watch=watch,
            workers=workers,
            queue=queue,
            drop_oldest=drop_oldest,
            reconnect=reconnect,
            broken=broken,
        )

    def _single_threaded(self) -> OnnxNetwork:
        """The same network with one thread a call, where this detector opened it and a CPU executes it."""
        if not self._opened_here or self._threads == 1 or self.network.session.get_providers() != [CPU]:
            return self.network
        network = OnnxNetwork(self.network.path, threads=1)
        if _state_of(network.path) != self._file_state:
            raise ModelError(f"{network.path}: the file has changed since it was loaded; open a new Detector")
        return network

    def _detect(
        self, images_bgr: Sequence[NDArray[np.uint8]], limits: Sequence[float], network: OnnxNetwork
    ) -> list[Detections]:
        if self._tiling is None:
            return self._detect_whole(images_bgr, limits, network)
        return [
            detect_in_tiles(
                lambda view: self._detect_whole([view], limits, network)[0],
                image,
                self._tiling,
                iou_threshold=self._iou_threshold,
                max_detections=self._max_detections,
                agnostic=self._agnostic,
            )
            for image in images_bgr
        ]

    def _detect_whole(
        self, images_bgr: Sequence[NDArray[np.uint8]], limits: Sequence[float], network: OnnxNetwork
    ) -> list[Detections]:
        started = time.perf_counter()
        placed = [network.task.place(image, self.image_size) for image in images_bgr]
        inputs: list[NDArray[Any]] = [
            square[:, :, ::-1] if network.takes_pixels else as_tensor(square)  # pixels: BGR -> RGB
            for square, _ in placed
        ]
        batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
        prepared = time.perf_counter()
        outputs = network.run_pixels(batch) if network.takes_pixels else network(batch)
        predicted = time.perf_counter()
        check_predictions(network, outputs)
        count, results = len(placed), []
        for index, (_, placement) in enumerate(placed):
            begun = time.perf_counter()
            found = network.task.decode(
                one_image(outputs, index),
                nms=network.nms,
                confidence=limits,
                iou_threshold=self._iou_threshold,
                max_detections=self._max_detections,
                agnostic=self._agnostic,
                placement=placement,
            )
            timing = Timing(
                prepare=(prepared - started) / count,
                network=(predicted - prepared) / count,
                decode=time.perf_counter() - begun,
            )
            results.append(replace(found, names=self.names, timing=timing))
        return results


def _state_of(model: Path | str | OnnxNetwork) -> tuple[int, int, int] | None:
    """What changes with a file's content: its number, size and time of change; None where there is no file."""
    path = Path(model.path if isinstance(model, OnnxNetwork) else model)
    if not path.is_file():
        return None
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _per_class(confidence: float | Sequence[float], classes: int) -> tuple[float, ...]:
    limits = as_numbers(confidence)
    if limits is None or limits.ndim > 1:
        raise UsageError(f"confidence: expected a number in [0, 1], or one a class, got {confidence!r:.60}")
    if limits.ndim == 0:
        return (float(limits),) * classes
    if len(limits) != classes:
        raise UsageError(f"confidence: expected one number, or {classes}, one a class, got {len(limits)}")
    return tuple(float(limit) for limit in limits)
