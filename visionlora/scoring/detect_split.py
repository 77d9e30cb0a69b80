"""What a network finds on a data set, in the data set's classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage, read_labelled
from visionlora.errors import DataError
from visionlora.progress import counting
from visionlora.tasks import RawPrediction, Task
from visionlora.vision.detections import EVALUATION_CONFIDENCE, IOU_THRESHOLD, MAX_DETECTIONS, Detections
from visionlora.vision.inference import Network, detect_placed, placed
from visionlora.vision.preprocess import Placement

BATCH = 16
_READERS = 4


@dataclass(frozen=True, eq=False)
class SplitDetections:
    """Detections of one model, one entry an image, and the data set's classes that the model knows.

    Class ids index the data set's names; -1 is a class of a classifier that the data set does not have. A model that
    knows no class is not run and has found nothing.
    """

    detections: tuple[Detections, ...]
    classes: tuple[str, ...]
    task: Task


class _SharedClasses:
    """A network reduced to some of its classes: the others leave its output before suppression, not after."""

    def __init__(self, network: Network, names: tuple[str, ...]) -> None:
        self.task, self.names = network.task, names
        self.image_size = network.image_size
        self.nms = network.nms
        self.path = getattr(network, "path", None)
        self.batch, self.cut, self.precision = network.batch, network.cut, network.precision
        self._network = network
        chosen = [network.names.index(name) for name in names]  # the first of equals
        self._rows = network.task.rows_of(chosen, classes=len(network.names))
        self._all = names == tuple(network.names)

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        first, *rest = self._network(batch)
        return (first if self._all else first[:, self._rows], *rest)


def shared_classes(network: Network, names: Sequence[str]) -> tuple[str, ...]:
    """Return the data set's classes that a network knows by name, in the data set's order.

    Raises:
        DataError: `names` holds a name twice.
    """
    if len(set(names)) != len(names):
        raise DataError(f"class names must differ, got {list(names)}")
    known = set(network.names)
    return tuple(name for name in names if name in known)


def find_objects(
    network: Network,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    batch: int = BATCH,
) -> SplitDetections:
    """Run a network on images, on those of the data set's classes that it knows by name.

    Images are read, placed, decoded and suppressed in the same way for every kind of network. They are read by
    threads while the network works on the batch before.

    Args:
        network: any Network.
        images: the ground truth, with the paths of the pictures.
        names: the class names of the data set.
        batch: images a call; changes the speed, not the scores.

    Raises:
        DataError: an image cannot be read or is not of its recorded size, or `names` holds a name twice.
        ModelError: the network gives numbers that are not finite.
    """
    shared = shared_classes(network, names)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    if not shared:
        return SplitDetections((nothing,) * len(images), (), network.task)
    judged: Network = _SharedClasses(network, shared) if network.task.boxes else network
    id_of = {name: index for index, name in enumerate(names)}
    to_data_set = np.array([id_of.get(name, -1) for name in judged.names], dtype=np.int64)
    found: list[Detections] = []
    with counting("judge", len(images), "image") as advance:
        for inputs in _placed_batches(network, images, batch):
            for detections in detect_placed(
                judged,
                inputs,
                confidence=EVALUATION_CONFIDENCE,
                iou_threshold=IOU_THRESHOLD,
                max_detections=MAX_DETECTIONS,
            ):
                masks = None if detections.masks is None else detections.masks.kept()  # prototypes take megabytes
                found.append(replace(detections, class_ids=to_data_set[detections.class_ids], masks=masks))
            advance(len(inputs))
    return SplitDetections(tuple(found), shared, network.task)


def _placed_batches(
    network: Network, images: Sequence[LabelledImage], batch: int
) -> Iterator[list[tuple[NDArray[np.float32], Placement]]]:
    """Yield batches of inputs, the next one being read meanwhile; only pictures of their size wait in memory."""
    starts = range(0, len(images), batch)
    with ThreadPoolExecutor(_READERS) as pool:

        def read(start: int) -> list[Any]:
            return [
                pool.submit(lambda one: placed(network.task, read_labelled(one), network.image_size), image)
                for image in images[start : start + batch]
            ]

        waiting = read(0) if images else []
        for start in starts:
            ready = [future.result() for future in waiting]
            waiting = read(start + batch)
            yield ready
