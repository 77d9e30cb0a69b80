"""From images to detections with any network: one preprocessing and one decoding for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from visionlora.detections import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    PREDICTION_CONFIDENCE,
    Detections,
    check_thresholds,
    decode,
)
from visionlora.preprocess import Placement, letterbox


class Network(Protocol):
    """A detector's arithmetic, whatever executes it.

    Attributes:
        names: one name a class.
        image_size: side of the square input in pixels.
        nms: whether its predictions need non-maximum suppression.
        batch: how many pictures a call computes at least; None for as many as it is given.
        cut: the score below which the file itself leaves out what it finds; None where it leaves out nothing.
        precision: what it computes in on this machine, such as `f32` or `bf16`; None where the runtime does not say.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def nms(self) -> bool: ...

    @property
    def batch(self) -> int | None: ...

    @property
    def cut(self) -> float | None: ...

    @property
    def precision(self) -> str | None: ...

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map (n, 3, S, S) RGB in [0, 1] to (n, 4 + classes, anchors): cx, cy, w, h in pixels, then scores."""
        ...


def detect(
    network: Network,
    images_bgr: Sequence[NDArray[np.uint8]],
    *,
    confidence: float = PREDICTION_CONFIDENCE,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
) -> list[Detections]:
    """Find the objects in some images; they go through the network as one batch.

    Args:
        network: what maps inputs to predictions.
        images_bgr: (H, W, 3) uint8 each; sizes may differ.
        confidence: only scores greater than this count.
        iou_threshold: two boxes of one class that overlap more are one object.
        max_detections: how many detections an image may have.

    Returns:
        Detections an image, best first, in pixels of that image.

    Raises:
        DataError: an image is not (H, W, 3) of uint8.
        UsageError: a threshold is out of range.

    Example:
        >>> class Blind:
        ...     names, image_size, nms = ("scratch",), 32, True
        ...
        ...     def __call__(self, batch):
        ...         return np.zeros((len(batch), 5, 21), dtype=np.float32)
        >>> [len(found) for found in detect(Blind(), [np.zeros((20, 30, 3), dtype=np.uint8)])]
        [0]
    """
    return detect_placed(
        network,
        [letterbox(image, network.image_size) for image in images_bgr],
        confidence=confidence,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )


def detect_placed(
    network: Network,
    placed: Sequence[tuple[NDArray[np.float32], Placement]],
    *,
    confidence: float = PREDICTION_CONFIDENCE,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
) -> list[Detections]:
    """Find the objects in images that `letterbox` has placed already; otherwise as `detect`.

    Raises:
        UsageError: a threshold is out of range.
    """
    check_thresholds(confidence, iou_threshold, max_detections)
    if not len(placed):
        return []
    predictions = network(np.stack([tensor for tensor, _ in placed]))
    results = []
    for prediction, (_, placement) in zip(predictions, placed, strict=True):
        found = decode(
            prediction,
            nms=network.nms,
            confidence=confidence,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )
        results.append(replace(found, boxes_xyxy=placement.to_original(found.boxes_xyxy)))
    return results
