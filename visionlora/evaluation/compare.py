"""One model on one data set: scores on the classes that both know, and the time of the network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from visionlora.data import LabelledImage
from visionlora.detections import EVALUATION_CONFIDENCE, IOU_THRESHOLD, MAX_DETECTIONS, Detections
from visionlora.errors import DataError
from visionlora.evaluation.coco import Scores, coco_scores
from visionlora.inference import Network, detect
from visionlora.preprocess import letterbox, read_image

TIMED_IMAGES = 30
_TURN = 5  # timed calls a turn
_WARM_UP_CALLS = 2  # at the start of each turn
_PAUSE_SECONDS = 0.1  # longer than the threads of onnxruntime and OpenMP spin for new work


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model, and the data set's classes that it knows (`scores` is None if it knows none)."""

    scores: Scores | None
    classes: tuple[str, ...]


class _SharedClasses:
    """A network reduced to some of its classes: the others leave its output before suppression, not after."""

    def __init__(self, network: Network, names: tuple[str, ...]) -> None:
        self.names = names
        self.image_size = network.image_size
        self.nms = network.nms
        self._network = network
        self._rows = [0, 1, 2, 3, *(4 + network.names.index(name) for name in names)]

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        return self._network(batch)[:, self._rows]  # (n, 4 + classes, anchors) -> (n, 4 + shared, anchors)


def score_model(
    network: Network,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    batch: int = 16,
    progress: bool = True,
) -> ModelScores:
    """Score a network on labelled images, on those of the data set's classes that it knows by name.

    Images are read, letterboxed, decoded and suppressed in the same way for every kind of network.

    Args:
        network: any Network.
        images: the ground truth, with the paths of the pictures.
        names: the class names of the data set.
        batch: images a call; changes the speed, not the scores.
        progress: show the count of images on a terminal.

    Raises:
        DataError: an image cannot be read or is not of its recorded size, or `names` holds a name twice.
    """
    if len(set(names)) != len(names):
        raise DataError(f"class names must differ, got {list(names)}")
    shared = tuple(name for name in names if name in network.names)
    if not shared:
        return ModelScores(scores=None, classes=())
    if shared != tuple(network.names):
        network = _SharedClasses(network, shared)
    to_data_set = np.array([list(names).index(name) for name in shared], dtype=np.int64)
    found: list[Detections] = []
    for chunk in _chunks(images, batch, progress=progress):
        for detections in detect(
            network,
            [_read(image) for image in chunk],
            confidence=EVALUATION_CONFIDENCE,
            iou_threshold=IOU_THRESHOLD,
            max_detections=MAX_DETECTIONS,
        ):
            found.append(replace(detections, class_ids=to_data_set[detections.class_ids]))
    return ModelScores(scores=coco_scores(found, images, names, classes=shared), classes=shared)


def time_networks(
    networks: Sequence[Network], images: Sequence[LabelledImage], *, count: int = TIMED_IMAGES
) -> tuple[float, ...]:
    """Return each network's median milliseconds for one image: the network call alone, at batch 1.

    The networks take turns in short blocks, so that a slow spell of the machine hits all alike. A turn begins with a
    pause and calls that are not counted: the threads of the network before keep a core busy for a while.

    Args:
        networks: the networks to compare.
        images: as many as a turn needs are taken; fewer are taken again.
        count: timed calls of each network, rounded up to whole turns.
    """
    pixels = [_read(image) for image in islice(cycle(images), _TURN)]
    tensors = [[letterbox(image, network.image_size)[0][None] for image in pixels] for network in networks]
    seconds: list[list[float]] = [[] for _ in networks]
    for _ in range(-(-count // _TURN)):
        for network, inputs, measured in zip(networks, tensors, seconds, strict=True):
            time.sleep(_PAUSE_SECONDS)
            for tensor in inputs[:_WARM_UP_CALLS]:
                network(tensor)
            for tensor in inputs:  # (1, 3, S, S)
                started = time.perf_counter()
                network(tensor)
                measured.append(time.perf_counter() - started)
    return tuple(1000 * float(np.median(measured)) for measured in seconds)


def _read(image: LabelledImage) -> NDArray[np.uint8]:
    """Return the pixels, (H, W, 3) uint8 BGR, after checking that the labels belong to a picture of this size."""
    pixels = read_image(image.path)
    size_wh = (pixels.shape[1], pixels.shape[0])
    if size_wh != tuple(image.size_wh):
        raise DataError(f"{image.path}: expected {image.size_wh} pixels (width, height), got {size_wh}")
    return pixels


def _chunks(images: Sequence[LabelledImage], batch: int, *, progress: bool) -> Iterator[Sequence[LabelledImage]]:
    """Yield `batch` images at a time, counting them on a terminal's last line."""
    with tqdm(total=len(images), unit="image", leave=False, disable=None if progress else True) as bar:
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            yield chunk
            bar.update(len(chunk))
