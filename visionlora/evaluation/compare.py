"""One model on one data set: scores on the classes that both know, and the time of the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from visionlora.data import LabelledImage, read_labelled
from visionlora.evaluation.coco import Scores, coco_scores
from visionlora.evaluation.finding import BATCH, find_objects
from visionlora.inference import Network
from visionlora.preprocess import letterbox

TIMED_IMAGES = 30
_TURN = 5  # timed calls a turn
_WARM_UP_CALLS = 2  # at the start of each turn
_PAUSE_SECONDS = 0.1  # longer than the threads of onnxruntime and OpenMP spin for new work


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model, and the data set's classes that it knows (`scores` is None if it knows none)."""

    scores: Scores | None
    classes: tuple[str, ...]


def score_model(
    network: Network,
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    batch: int = BATCH,
    progress: bool = True,
) -> ModelScores:
    """Score a network on labelled images, on those of the data set's classes that it knows by name.

    Args:
        network: any Network.
        images: the ground truth, with the paths of the pictures.
        names: the class names of the data set.
        batch: images a call; changes the speed, not the scores.
        progress: show the count of images on a terminal.

    Raises:
        DataError: an image cannot be read or is not of its recorded size, or `names` holds a name twice.
    """
    found = find_objects(network, images, names, batch=batch, progress="" if progress else None)
    if not found.classes:
        return ModelScores(scores=None, classes=())
    scores = coco_scores(found.detections, images, names, classes=found.classes)
    return ModelScores(scores=scores, classes=found.classes)


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
    pixels = [read_labelled(image) for image in islice(cycle(images), _TURN)]
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
