"""What every task says of itself, and what several share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.vision.detections import IOU_THRESHOLD, MAX_DETECTIONS, PREDICTION_CONFIDENCE, Detections
from visionlora.vision.drawing import Painter
from visionlora.vision.preprocess import LETTERBOX, Placement, letterbox_pixels

RawPrediction: TypeAlias = tuple[NDArray[np.float32], ...]
"""What a network gives: an array for each output of its graph, batch first; see `Task`."""


class Task(Protocol):
    """What a detector finds: how its labels, raw predictions and COCO annotations are laid out, and how it is drawn.

    A raw prediction is a tuple of float32 arrays, one for each output of the graph, batch first. The first is (n, rows,
    anchors): geometry, in pixels of the network's input where it is of places, and a score in [0, 1] for each class.

    Attributes:
        name: as Ultralytics and the files call it.
        iou_type: pycocotools' word for what it compares; `obb` for oriented boxes, which pycocotools does not know.
        noun: what that is, in words, in the plural.
        similarity: what one and another are compared by, in words.
        truth: the field of `LabelledImage` that holds what is found beside boxes; empty where there is nothing.
        binned: how many numbers of a geometry a head may give as logits over bins, to take their mean (arXiv
            2006.04388, eq. 5). INT8 keeps this tail of the graph in float, and computes it in a cheaper order.
        outputs: how many arrays a raw prediction has.
        final_columns: how many numbers a final detection has, where a file suppresses by itself; another than a file
            of raw predictions has anchors.
        boxes: whether it finds objects at places, and not one class for the whole image.
        axes: of a raw prediction's first output, the batch among them.
        score_words: what its two scores are called, the one that models are chosen by first, and that one of a class.
        score_keys: under which an adapter's card and results.csv have the two.
        preprocessing: how an image becomes the input, as cards state it.
    """

    name: ClassVar[str]
    iou_type: ClassVar[str]
    noun: ClassVar[str]
    similarity: ClassVar[str]
    truth: ClassVar[str]
    binned: ClassVar[int]
    outputs: ClassVar[int]
    boxes: ClassVar[bool]
    axes: ClassVar[int]
    score_words: ClassVar[tuple[str, str, str]]
    score_keys: ClassVar[tuple[str, str]]
    preprocessing: ClassVar[Mapping[str, Any]]

    @property
    def final_columns(self) -> int:
        """How many numbers a final detection has."""
        ...

    @property
    def draw(self) -> Painter:
        """What draws detections, or what is labelled in an image."""
        ...

    def place(self, image_bgr: NDArray[np.uint8], image_size: int, /) -> tuple[NDArray[np.uint8], Placement]:
        """Return an image (H, W, 3) as the square (S, S, 3) uint8 BGR that a network sees, and where it lies there.

        Raises:
            DataError: it is no image.
            UsageError: `image_size` is below 1.
        """
        ...

    def settings(self) -> dict[str, int]:
        """Return the sizes that a file states beside the task's name; empty where there are none."""
        ...

    def rows(self, classes: int) -> int:
        """Return the rows of a raw prediction's first output for so many classes."""
        ...

    def split(self, outputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return geometry (..., G, anchors) and scores (..., classes, anchors) of a raw prediction's first output.

        In NumPy and torch alike; the scores are a view.
        """
        ...

    def split_final(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return geometry (..., G), scores (...) and class ids (...) of final detections.

        Args:
            rows: (..., final_columns), in pixels of the network's input.
        """
        ...

    def rows_of(self, class_ids: Sequence[int], *, classes: int) -> list[int]:
        """Return which rows of `classes` classes make up a raw prediction of some of them, in this order."""
        ...

    def decode(
        self,
        outputs: Sequence[NDArray[np.float32]],
        *,
        nms: bool,
        confidence: float | Sequence[float] = PREDICTION_CONFIDENCE,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        agnostic: bool = False,
        placement: Placement | None = None,
    ) -> Detections:
        """Turn the raw prediction for one image into detections, best first, whose `painter` is `draw`.

        Args:
            outputs: of this image, without the batch.
            nms: whether the head predicts an object several times (YOLOv8, YOLO11) or once (YOLO26).
            confidence: only scores greater than this count; one number, or one a class.
            iou_threshold: see `visionlora.vision.boxes.nms`; without effect for an end-to-end head.
            max_detections: how many detections to return at most.
            agnostic: whether detections of different classes suppress each other too.
            placement: where the image lies in the network's input; None leaves pixels of the input.

        Raises:
            UsageError: an option is out of range, or `outputs` are not of these shapes.
        """
        ...

    def label_rows(self, found: Detections, size_wh: tuple[int, int]) -> list[list[float]]:
        """Return the columns of a label line behind the class for each detection; none for one that has no line.

        Args:
            found: in an image.
            size_wh: width and height of the image in pixels.
        """
        ...

    def encode(
        self,
        geometry: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        *,
        classes: int,
    ) -> NDArray[np.float32]:
        """Return the first output (n, rows, N) of a raw prediction whose anchors are these final detections.

        Args:
            geometry: (n, N, G), scores (n, N) and class ids (n, N) as `split_final` gives them.
            scores: see there.
            class_ids: see there.
            classes: how many there are.
        """
        ...

    def overlap(self, a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return (anchors,) how much each prediction for an image is the one at the same place, in [0, 1].

        Args:
            a: a raw prediction for one image, without the batch.
            b: another.
        """
        ...

    def coco_fields(self, objects: Any) -> dict[str, Any]:
        """Return COCO's fields of geometry, `bbox` and `area` among them: arrays or lists with a row an object.

        Args:
            objects: `Detections`, or what is labelled in an image.
        """
        ...

    def check_columns(self, columns: int, most: int) -> None:
        """Refuse a line of a label file by its number of columns, the class first.

        Args:
            columns: of this line.
            most: of the longest line of the file.

        Raises:
            ValueError: the line is none of this task.
        """
        ...

    def label_box(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the box (4,) x1, y1, x2, y2 of a line's columns behind the class, clipped; fractions of the image.

        Raises:
            ValueError: a number cannot be meant, or nothing lies inside the image.
        """
        ...

    def label_fields(self, rows: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> dict[str, Any]:
        """Return what lines say beside the box, as fields of `LabelledImage`: in pixels, one entry a line.

        Args:
            rows: the columns of each line behind the class; `label_box` has taken them.
            size_wh: width and height of the image in pixels.
        """
        ...


class OfBoxes:
    """What tasks share that find objects at places."""

    boxes: ClassVar[bool] = True
    axes: ClassVar[int] = 3
    score_words: ClassVar[tuple[str, str, str]] = ("mAP50-95", "mAP50", "AP50-95")
    score_keys: ClassVar[tuple[str, str]] = ("metrics/mAP50-95(B)", "metrics/mAP50(B)")  # Ultralytics' names
    preprocessing: ClassVar[Mapping[str, Any]] = LETTERBOX
    place = staticmethod(letterbox_pixels)


def box_fields(objects: Any) -> dict[str, Any]:
    """Return `bbox`, (N, 4) left, top, width, height, and its `area`, (N,), in pixels of the image.

    Args:
        objects: `Detections`, or what is labelled in an image.
    """
    boxes = objects.boxes_xyxy.astype(np.float64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return {"bbox": np.concatenate([boxes[:, :2], sizes], axis=1), "area": sizes.prod(axis=1)}


def best_candidates(
    scores: NDArray[np.float32], confidence: float | Sequence[float], limit: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    """Return the score, class and anchor of the best pairs of class and anchor, best first; equals keep their order.

    Args:
        scores: (classes, anchors).
        confidence: only scores greater than this count; one number, or one a class.
        limit: how many pairs at most.

    Raises:
        UsageError: there is another number of confidences than of classes.
    """
    limits = np.asarray(confidence, dtype=np.float32)
    if limits.ndim and limits.shape != (len(scores),):
        raise UsageError(f"confidence: expected {len(scores)} numbers, one a class, got {len(limits)}")
    # Over the flat array: np.nonzero of two dimensions takes ten times as long.
    class_ids, anchors = np.divmod(np.flatnonzero(scores > limits.reshape(-1, 1)), scores.shape[1])
    found = scores[class_ids, anchors]
    best = _best(found, limit)
    return found[best], class_ids[best], anchors[best]


def one_image(outputs: Sequence[Any], index: int) -> tuple[Any, ...]:
    """Return the raw prediction for one image of a batch."""
    return tuple(output[index] for output in outputs)


def difference(task: Task, got: Sequence[Any], expected: Sequence[Any]) -> tuple[float, float]:
    """Return the largest difference of two raw predictions, in NumPy or torch: of geometry in pixels, and of a score.

    The geometry's is also that of what is no place: factors and prototypes of masks, angles. Each is NaN where one of
    the predictions is.
    """
    apart = [abs(one - other) for one, other in zip(got, expected, strict=True)]
    geometry, scores = task.split(apart)
    largest = [float(part.max()) for part in (geometry, *apart[1:]) if 0 not in part.shape]
    return float(np.max([0.0, *largest])), float(scores.max())


def _best(scores: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Indices of the `limit` highest scores, best first, without sorting what is not wanted."""
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    lowest = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    candidates = np.flatnonzero(scores >= lowest)  # with the ties at the edge, so that the choice is stable
    return candidates[np.argsort(-scores[candidates], kind="stable")[:limit]]
