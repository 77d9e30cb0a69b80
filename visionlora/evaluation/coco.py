"""Average precision by pycocotools, counted as Ultralytics counts: up to 300 detections an image, all sizes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionlora.data import LabelledImage
from visionlora.detections import MAX_DETECTIONS, Detections
from visionlora.errors import UsageError

_IOU_50, _IOU_75 = 0, 5  # positions in COCOeval's thresholds 0.50, 0.55, ... 0.95


@dataclass(frozen=True)
class ClassCount:
    """How many objects of a class there are, and in how many images."""

    name: str
    images: int
    objects: int


@dataclass(frozen=True)
class ClassScores:
    """Average precision of one class; None where the split holds no object of it."""

    name: str
    ap50_95: float | None
    ap50: float | None
    images: int
    """Images with at least one object of the class."""
    objects: int


@dataclass(frozen=True)
class Scores:
    """Mean average precision over the classes that have objects, in [0, 1]; None if no class has any."""

    map50_95: float | None
    map50: float | None
    map75: float | None
    per_class: tuple[ClassScores, ...]

    def mean_over(self, classes: Collection[str]) -> float | None:
        """Return mAP50-95 over the named classes alone, or None if none of them has objects."""
        return _mean(score.ap50_95 for score in self.per_class if score.name in classes)


def coco_scores(
    detections: Sequence[Detections],
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    classes: Collection[str] | None = None,
) -> Scores:
    """Score detections against labelled images with pycocotools.

    Args:
        detections: one entry an image, in the order of `images`; class ids index `names`.
        images: the ground truth.
        names: the class names of the data set.
        classes: score these classes only; None means all of `names`.

    Raises:
        UsageError: `detections` and `images` differ in length, or `classes` names an unknown class.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> box, ids = np.array([[10, 10, 50, 40]], np.float32), np.array([0])
        >>> truth = LabelledImage(path=Path("a.jpg"), size_wh=(64, 48), boxes_xyxy=box, class_ids=ids)
        >>> found = Detections(boxes_xyxy=box, scores=np.array([0.9], np.float32), class_ids=ids)
        >>> round(coco_scores([found], [truth], ["scratch"]).map50_95, 6)
        1.0
    """
    if len(detections) != len(images):
        raise UsageError(f"expected one Detections for each of {len(images)} images, got {len(detections)}")
    unknown = sorted(set(classes or ()) - set(names))
    if unknown:
        raise UsageError(f"classes {unknown} are not in the data set; it has {list(names)}")
    class_ids = [index for index, name in enumerate(names) if classes is None or name in classes]
    precision = _precision(detections, images, class_ids)
    all_counts = count_classes(images, names)
    counts = [all_counts[class_id] for class_id in class_ids]
    per_class = tuple(
        ClassScores(
            name=count.name,
            ap50_95=float(precision[:, :, column].mean()) if count.objects else None,
            ap50=float(precision[_IOU_50, :, column].mean()) if count.objects else None,
            images=count.images,
            objects=count.objects,
        )
        for column, count in enumerate(counts)
    )
    present = [column for column, count in enumerate(counts) if count.objects]
    return Scores(
        map50_95=_mean(score.ap50_95 for score in per_class),
        map50=_mean(score.ap50 for score in per_class),
        map75=_mean(float(precision[_IOU_75, :, column].mean()) for column in present),
        per_class=per_class,
    )


def count_classes(images: Sequence[LabelledImage], names: Sequence[str]) -> tuple[ClassCount, ...]:
    """Count the labelled objects of each class, and the images that hold any, in the order of the class ids."""
    per_image = np.array([np.bincount(image.class_ids, minlength=len(names)) for image in images], dtype=np.int64)
    per_image = per_image.reshape(len(images), len(names))
    with_objects, objects = np.count_nonzero(per_image, axis=0).tolist(), per_image.sum(axis=0).tolist()
    return tuple(ClassCount(*row) for row in zip(names, with_objects, objects, strict=True))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _precision(
    detections: Sequence[Detections], images: Sequence[LabelledImage], class_ids: Sequence[int]
) -> np.ndarray:
    """Return interpolated precision (10 IoU thresholds, 101 recalls, classes), -1 for classes without objects."""
    if not images or not class_ids:
        return np.empty((10, 101, len(class_ids)))
    truth = _annotations([(image.boxes_xyxy, image.class_ids, None) for image in images])
    found = _annotations([(found.boxes_xyxy, found.class_ids, found.scores) for found in detections])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_index(truth, len(images), class_ids), _index(found, len(images), class_ids), "bbox")
        # One limit and one size range are all that is read; summarize() would want its own three and four.
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng = [[0, float("inf")]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"]  # (IoU, recall, class, size range, limit)
    return precision[..., 0, 0]


def _annotations(arrays: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> list[dict[str, Any]]:
    """Return COCO annotations of each image's boxes, class ids and scores (None for ground truth)."""
    annotations: list[dict[str, Any]] = []
    for image_id, (boxes_xyxy, class_ids, scores) in enumerate(arrays):
        boxes = boxes_xyxy.astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        boxes_xywh = np.concatenate([boxes[:, :2], sizes], axis=1).tolist()
        areas = sizes.prod(axis=1).tolist()
        classes = class_ids.tolist()
        for row, (box, area, class_id) in enumerate(zip(boxes_xywh, areas, classes, strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCOeval takes id 0 for "not matched"
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
            )
            if scores is not None:
                annotations[-1]["score"] = float(scores[row])
    return annotations


def _index(annotations: list[dict[str, Any]], image_count: int, class_ids: Sequence[int]) -> COCO:
    """Return an indexed COCO set built in memory; unlike COCO.loadRes it takes an empty list too."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in range(image_count)],
        "categories": [{"id": class_id} for class_id in class_ids],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
