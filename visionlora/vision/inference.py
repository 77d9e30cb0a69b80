"""From images to detections with any network: one preprocessing and one decoding for every format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError
from visionlora.tasks import RawPrediction, Task, one_image
from visionlora.vision.detections import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    PREDICTION_CONFIDENCE,
    Detections,
    check_thresholds,
)
from visionlora.vision.preprocess import Placement, as_tensor

SCORE_TOLERANCE = 0.01
"""How far a score may leave [0, 1]: half precision and integers round."""
_FARTHEST = 1000
"""Sides of the input that a box may reach: farther is no rounding but a broken file."""


class Network(Protocol):
    """A detector's arithmetic, whatever executes it."""

    @property
    def task(self) -> Task:
        """What it finds, and how its raw predictions are laid out."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One name a class."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        ...

    @property
    def nms(self) -> bool:
        """Whether its predictions need non-maximum suppression."""
        ...

    @property
    def batch(self) -> int | None:
        """How many pictures a call computes at least; None for as many as it is given."""
        ...

    @property
    def cut(self) -> float | None:
        """The score below which the file itself leaves out what it finds; None where it leaves out nothing."""
        ...

    @property
    def precision(self) -> str | None:
        """What it computes in here, such as `f32` or `bf16`; None where the runtime does not say."""
        ...

    def __call__(self, batch: NDArray[np.float32], /) -> RawPrediction:
        """Map (n, 3, S, S) RGB in [0, 1] to the raw prediction of its task."""
        ...


def detect(
    network: Network,
    images_bgr: Sequence[NDArray[np.uint8]],
    *,
    confidence: float | Sequence[float] = PREDICTION_CONFIDENCE,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    agnostic: bool = False,
) -> list[Detections]:
    """Find the objects in some images; they go through the network as one batch.

    Args:
        network: what maps inputs to predictions.
        images_bgr: (H, W, 3) uint8 each; sizes may differ.
        confidence: only scores greater than this count, one number or one a class.
        iou_threshold: two boxes of one class that overlap more are one object.
        max_detections: how many detections an image may have.
        agnostic: whether boxes of different classes suppress each other too.

    Returns:
        Detections an image, best first, in pixels of that image.

    Raises:
        DataError: an image is not (H, W, 3) of uint8.
        UsageError: a threshold is out of range.
        ModelError: the network gives what no detector gives, see `check_predictions`.

    Example:
        >>> from visionlora.tasks import DETECT
        >>> class Blind:
        ...     task, names, image_size, nms = DETECT, ("scratch",), 32, True
        ...
        ...     def __call__(self, batch):
        ...         return (np.zeros((len(batch), 5, 21), dtype=np.float32),)
        >>> [len(found) for found in detect(Blind(), [np.zeros((20, 30, 3), dtype=np.uint8)])]
        [0]
    """
    return detect_placed(
        network,
        [placed(network.task, image, network.image_size) for image in images_bgr],
        confidence=confidence,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        agnostic=agnostic,
    )


def placed(task: Task, image_bgr: NDArray[np.uint8], image_size: int) -> tuple[NDArray[np.float32], Placement]:
    """Return an image as the input (3, S, S) of a network of a task, RGB in [0, 1], and where it lies in it.

    Raises:
        DataError: it is not (H, W, 3) of uint8.
    """
    square, placement = task.place(image_bgr, image_size)
    return as_tensor(square), placement


def detect_placed(
    network: Network,
    inputs: Sequence[tuple[NDArray[np.float32], Placement]],
    *,
    confidence: float | Sequence[float] = PREDICTION_CONFIDENCE,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    agnostic: bool = False,
) -> list[Detections]:
    """Find the objects in images that `placed` has placed already; otherwise as `detect`.

    Raises:
        UsageError: a threshold is out of range.
        ModelError: the network gives what no detector gives, see `check_predictions`.
    """
    check_thresholds(confidence, iou_threshold, max_detections)
    if not len(inputs):
        return []
    outputs = network(np.stack([tensor for tensor, _ in inputs]))
    check_predictions(network, outputs)
    return [
        network.task.decode(
            one_image(outputs, index),
            nms=network.nms,
            confidence=confidence,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            agnostic=agnostic,
            placement=placement,
        )
        for index, (_, placement) in enumerate(inputs)
    ]


def check_predictions(network: Network, outputs: RawPrediction) -> None:
    """Refuse raw predictions that no detector gives, which decoding would turn into "nothing found".

    Args:
        network: what gave them; its file's name is in the message.
        outputs: of one batch.

    Raises:
        ModelError: values are no numbers, scores are outside [0, 1], or boxes are far outside of any picture.
    """
    if not outputs[0].size:
        return
    geometry, scores = network.task.split(outputs)
    rest = [part for part in (geometry, *outputs[1:]) if part.size]
    low, high = scores.min(), scores.max()  # NaN where a value is, as below
    farthest = np.max([0.0, *(max(part.max(), -part.min()) for part in rest)])
    if not np.isfinite([low, high, farthest]).all():
        raise ModelError(f"{_name(network)}: the network gave values that are no numbers; its file is broken")
    if low < -SCORE_TOLERANCE or high > 1 + SCORE_TOLERANCE:
        raise ModelError(
            f"{_name(network)}: expected scores in [0, 1], the network gave {low:g} to {high:g}; its file is "
            "broken, or was exported without the last sigmoid"
        )
    if farthest > _FARTHEST * network.image_size:
        raise ModelError(
            f"{_name(network)}: expected boxes in pixels of a picture of {network.image_size}, the network gave "
            f"{farthest:g}; its file is broken"
        )


def try_out(network: Network) -> None:
    """Show a network two pictures that differ, grey and noise, and refuse it where it computes nonsense.

    A file with its own suppression may rightly find nothing in both.

    Raises:
        ModelError: it gives what `check_predictions` refuses, nothing but zeros, or, of a detector, the same for both
            pictures; or it cannot be run.
    """
    side = network.image_size
    grey = network(np.full((1, 3, side, side), 0.5, dtype=np.float32))
    check_predictions(network, grey)
    noise = network(np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32))
    check_predictions(network, noise)
    # The first output: where a file suppresses by itself, prototypes are there without an object.
    if not grey[0].any() and not noise[0].any():
        if network.nms:
            raise ModelError(f"{_name(network)}: the network gave zeros for every picture; its file is broken")
    elif network.task.boxes and np.array_equal(grey[0], noise[0]):  # a classifier may be as sure of both
        raise ModelError(
            f"{_name(network)}: the network gave the same for two different pictures; its file is broken, its output "
            "does not depend on its input"
        )


def _name(network: Any) -> str:
    """The file of a network; its kind where it has none."""
    return str(getattr(network, "path", None) or type(network).__name__)
