"""Average precision by pycocotools, counted as Ultralytics counts: up to 300 detections an image."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.errors import UsageError
from visionlora.scoring.bootstrap import Interval
from visionlora.scoring.cocoeval import objects_per_image, run_cocoeval
from visionlora.scoring.matches import Matches
from visionlora.tasks import Task
from visionlora.vision.detections import Detections

NEXT_TO_NOTHING = 0.01
"""mAP50-95 below which a model has learned next to nothing yet."""
_IOU_50, _IOU_75 = 0, 5  # positions in COCO's thresholds 0.50, 0.55, ... 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # positions in cocoeval's size ranges


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
    interval: Interval | None = None
    """95 % interval of `ap50_95` by a bootstrap over images."""


@dataclass(frozen=True)
class Scores:
    """Mean average precision over the classes that have objects, in [0, 1]; None if no class has any."""

    map50_95: float | None
    map50: float | None
    map75: float | None
    per_class: tuple[ClassScores, ...]
    map_small: float | None = None
    """Over objects below 32 x 32 pixels of the original image, COCO's limits; None if there is none. The area
    that a COCO ground truth says counts, else that of the box."""
    map_medium: float | None = None
    """Over objects from there to 96 x 96 pixels."""
    map_large: float | None = None
    """Over objects above."""
    recall: float | None = None
    """Average recall (AR): recall with up to 300 detections an image, mean over IoU 0.50 to 0.95 and classes."""
    interval: Interval | None = None
    """95 % interval of `map50_95` by a bootstrap over images."""
    sizes: tuple[int, int, int] | None = None
    """How many objects are small, medium and large; None in reports of earlier versions."""
    pooled: bool = False
    """Of a classifier: `map50_95` is top-1 and `map50` top-5, over all pictures alike and not over classes."""

    def mean_over(self, classes: Collection[str]) -> float | None:
        """Return mAP50-95 over the named classes alone, or None if none of them has objects."""
        chosen = [score for score in self.per_class if score.name in set(classes) and score.ap50_95 is not None]
        if not chosen:
            return None
        weights = [score.objects if self.pooled else 1 for score in chosen]
        return sum(weight * (score.ap50_95 or 0.0) for weight, score in zip(weights, chosen, strict=True)) / sum(
            weights
        )


@dataclass(frozen=True)
class MeanPrecision:
    """mAP over the classes that have objects, in [0, 1]; None if no class has any."""

    map50_95: float | None
    map50: float | None


def mean_precision(
    detections: Sequence[Detections], images: Sequence[LabelledImage], names: Sequence[str], *, task: Task
) -> MeanPrecision:
    """Return the two numbers of `coco_scores` that a training is steered by, in a quarter of its time."""
    precision = run_cocoeval(detections, images, range(len(names)), names, task=task, sizes=1).precision[..., _ALL]
    return MeanPrecision(
        map50_95=_mean(_known(precision[:, :, column]) for column in range(len(names))),
        map50=_mean(_known(precision[_IOU_50, :, column]) for column in range(len(names))),
    )


def coco_scores(
    detections: Sequence[Detections],
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    classes: Collection[str] | None = None,
    task: Task,
) -> Scores:
    """Score detections against labelled images with pycocotools.

    Args:
        detections: one entry an image, in the order of `images`; class ids index `names`.
        images: the ground truth.
        names: the class names of the data set.
        classes: score these classes only; None means all of `names`.
        task: what was looked for.

    Raises:
        UsageError: `detections` and `images` differ in length, or `classes` names an unknown class.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from visionlora.tasks import DETECT
        >>> box, ids = np.array([[10, 10, 50, 40]], np.float32), np.array([0])
        >>> truth = LabelledImage(path=Path("a.jpg"), size_wh=(64, 48), boxes_xyxy=box, class_ids=ids)
        >>> found = Detections(boxes_xyxy=box, scores=np.array([0.9], np.float32), class_ids=ids)
        >>> round(coco_scores([found], [truth], ["scratch"], task=DETECT).map50_95, 6)
        1.0
    """
    return score_and_match(detections, images, names, classes=classes, task=task)[0]


def score_and_match(
    detections: Sequence[Detections],
    images: Sequence[LabelledImage],
    names: Sequence[str],
    *,
    classes: Collection[str] | None = None,
    task: Task,
    boxes: bool = False,
) -> tuple[Scores, Matches]:
    """Score as `coco_scores` does, and return which detections are right too; `boxes` is as in `run_cocoeval`."""
    if len(detections) != len(images):
        raise UsageError(f"expected one Detections for each of {len(images)} images, got {len(detections)}")
    wanted = set(names if classes is None else classes)
    unknown = sorted(wanted - set(names))
    if unknown:
        raise UsageError(f"classes {unknown} are not in the data set; it has {list(names)}")
    class_ids = [index for index, name in enumerate(names) if name in wanted]
    result = run_cocoeval(detections, images, class_ids, names, task=task, boxes=boxes)
    all_counts = count_classes(images, names, iou_type="bbox" if boxes else task.iou_type)
    precision = result.precision  # (10, 101, classes, sizes)
    per_class = tuple(
        ClassScores(
            name=all_counts[class_id].name,
            ap50_95=_known(precision[:, :, column, _ALL]),
            ap50=_known(precision[_IOU_50, :, column, _ALL]),
            images=all_counts[class_id].images,
            objects=all_counts[class_id].objects,
        )
        for column, class_id in enumerate(class_ids)
    )
    scores = Scores(
        map50_95=_mean(score.ap50_95 for score in per_class),
        map50=_mean(score.ap50 for score in per_class),
        map75=_known(precision[_IOU_75, :, :, _ALL]),
        map_small=_known(precision[..., _SMALL]),
        map_medium=_known(precision[..., _MEDIUM]),
        map_large=_known(precision[..., _LARGE]),
        recall=_known(result.recall[..., _ALL]),
        per_class=per_class,
        sizes=result.sizes,
    )
    return scores, result.matches


def count_classes(
    images: Sequence[LabelledImage], names: Sequence[str], *, iou_type: str = "bbox"
) -> tuple[ClassCount, ...]:
    """Count the labelled objects of each class, and the images that hold any, in the order of the class ids.

    A crowd is no object; nor is, of keypoints, what has none that is labelled.
    """
    per_image = objects_per_image(images, len(names), iou_type)
    with_objects, objects = np.count_nonzero(per_image, axis=0).tolist(), per_image.sum(axis=0).tolist()
    return tuple(ClassCount(*row) for row in zip(names, with_objects, objects, strict=True))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _known(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what pycocotools knows; it writes -1 where there is no object."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else None
