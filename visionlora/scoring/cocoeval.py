"""pycocotools on detections in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visionlora.data import LabelledImage
from visionlora.scoring.matches import IOU_THRESHOLDS, RECALLS, Matches
from visionlora.scoring.overlaps import judged_objects, overlap_of
from visionlora.tasks import Task, box_fields
from visionlora.vision.detections import MAX_DETECTIONS, Detections

SIZE_RANGES = ((0, float("inf")), (0, 32**2), (32**2, 96**2), (96**2, float("inf")))
"""Areas in square pixels of the original image: all, small, medium, large, as COCO has them. Of an object the ground
truth's `area` counts, where it has one, of a detection that of its box."""


@dataclass(frozen=True, eq=False)
class CocoResult:
    """What pycocotools found.

    Attributes:
        precision: (10 IoU thresholds, 101 recalls, classes, 4 sizes), interpolated, -1 where there is no object.
        recall: (10, classes, 4), -1 where there is no object.
        matches: of all sizes.
        sizes: how many objects are small, medium and large.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    matches: Matches
    sizes: tuple[int, int, int] = (0, 0, 0)


def run_cocoeval(
    detections: Sequence[Detections],
    images: Sequence[LabelledImage],
    class_ids: Sequence[int],
    names: Sequence[str],
    *,
    task: Task,
    sizes: int = len(SIZE_RANGES),
    boxes: bool = False,
) -> CocoResult:
    """Run pycocotools on one model's detections.

    Args:
        detections: one entry an image, in the order of `images`.
        images: the ground truth.
        class_ids: the classes to score.
        names: of all classes of the data set.
        task: what is compared, and how COCO writes it.
        sizes: how many of `SIZE_RANGES` to score, the first ones; each takes as long as any other.
        boxes: compare upright boxes, whatever the task.
    """
    iou_type = "bbox" if boxes else task.iou_type
    fields_of = task.coco_fields if iou_type == task.iou_type else box_fields
    scored = tuple(names[class_id] for class_id in class_ids)
    if not images or not class_ids:
        shape = (len(IOU_THRESHOLDS), len(RECALLS), len(class_ids), sizes)
        nothing = -np.ones(shape)
        return CocoResult(nothing, nothing[:, 0], _matches([], np.zeros((len(images), len(class_ids))), scored))
    truth = _annotations(
        [_columns(fields_of(image), image, iscrowd=image.is_crowd, area=image.object_areas) for image in images]
    )
    found = _annotations([_columns(_found_fields(fields_of(one)), one, score=one.scores) for one in detections])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        indexed = _index(truth, images, class_ids), _index(found, images, class_ids)
        evaluation = _Evaluation(*indexed, iou_type, detections, images)
        # One limit is all that is read; summarize() would want its own three.
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng = [list(limits) for limits in SIZE_RANGES[:sizes]]
        evaluation.params.areaRngLbl = ["all", "small", "medium", "large"][:sizes]
        evaluation.evaluate()
        evaluation.accumulate()
    # evalImgs is ordered by class, size, image; the first block of each class is of all sizes.
    count = len(images)
    blocks = [evaluation.evalImgs[i * sizes * count : (i * sizes + 1) * count] for i in range(len(class_ids))]
    per_image = objects_per_image(images, len(names), iou_type)[:, class_ids]
    return CocoResult(
        precision=evaluation.eval["precision"][..., 0],  # (IoU, recall, class, size, limit)
        recall=evaluation.eval["recall"][..., 0],
        matches=_matches(blocks, per_image, scored),
        sizes=_count_sizes(evaluation.evalImgs, count),
    )


def _count_sizes(results: Sequence[dict[str, Any] | None], images: int) -> tuple[int, int, int]:
    """Count the objects that pycocotools counted of each size; results are ordered by class, size, image."""
    counts = [0] * len(SIZE_RANGES)
    for index, one in enumerate(results):
        if one is not None:
            counts[index // images % len(SIZE_RANGES)] += int((np.asarray(one["gtIgnore"]) == 0).sum())
    return counts[1], counts[2], counts[3]


def _matches(blocks: Sequence[Sequence[dict[str, Any] | None]], objects: np.ndarray, names: tuple[str, ...]) -> Matches:
    """Gather pycocotools' matches of each class and image."""
    thresholds = len(IOU_THRESHOLDS)
    images, columns, scores = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    right, counted = [np.empty((0, thresholds), bool)], [np.empty((0, thresholds), bool)]
    for column, block in enumerate(blocks):
        filled = [(index, one) for index, one in enumerate(block) if one is not None and len(one["dtScores"])]
        if not filled:
            continue
        of_class = np.concatenate([one["dtScores"] for _, one in filled])
        order = np.argsort(-of_class, kind="stable")
        ignored = np.concatenate([one["dtIgnore"] for _, one in filled], axis=1)[:, order].T.astype(bool)
        matched = np.concatenate([one["dtMatches"] for _, one in filled], axis=1)[:, order].T > 0
        images.append(np.repeat([i for i, _ in filled], [len(one["dtScores"]) for _, one in filled])[order])
        columns.append(np.full(len(order), column))
        scores.append(of_class[order])
        right.append(matched & ~ignored)
        counted.append(~ignored)
    return Matches(
        names=names,
        objects=objects.astype(np.int32),
        images=np.concatenate(images).astype(np.int32),
        columns=np.concatenate(columns).astype(np.int32),
        scores=np.concatenate(scores).astype(np.float32),
        right=np.concatenate(right),
        counted=np.concatenate(counted),
    )


def objects_per_image(images: Sequence[LabelledImage], classes: int, iou_type: str = "bbox") -> NDArray[np.int64]:
    """Return (images, classes) how many objects of each class an image has, as `judged_objects` says."""
    counts = [np.bincount(image.class_ids[judged_objects(image, iou_type)], minlength=classes) for image in images]
    return np.array(counts, dtype=np.int64).reshape(len(images), classes)


class _Evaluation(COCOeval):  # type: ignore[misc]
    """pycocotools' matching and counting, with overlaps of our own where it has none, or takes seconds an image."""

    def __init__(
        self, truth: COCO, found: COCO, iou_type: str, detections: Sequence[Detections], images: Sequence[LabelledImage]
    ) -> None:
        super().__init__(truth, found, "bbox" if iou_type == "obb" else iou_type)
        self._iou_type, self._detections, self._images = iou_type, detections, images

    def computeIoU(self, imgId: int, catId: int) -> Any:
        """Return (detections, objects) overlaps of a class in an image, the best detection first."""
        return self._own(imgId, catId) if self._iou_type == "obb" else super().computeIoU(imgId, catId)

    def computeOks(self, imgId: int, catId: int) -> Any:
        """Return the same for keypoints."""
        return self._own(imgId, catId)

    def _own(self, image_id: int, class_id: int) -> Any:
        found, truth = self._detections[image_id], self._images[image_id]
        rows, columns = np.flatnonzero(found.class_ids == class_id), np.flatnonzero(truth.class_ids == class_id)
        if not len(rows) or not len(columns):
            return []
        rows = rows[np.argsort(-found.scores[rows], kind="mergesort")][: self.params.maxDets[-1]]
        iou, share = overlap_of(self._iou_type, found.at(rows), truth.at(columns))
        return np.where(truth.is_crowd[columns], share, iou)


def _found_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of detections with the `area` of COCO's `loadRes`: of the mask, or around the keypoints."""
    if "segmentation" in fields:
        return {**fields, "area": np.array([coco_mask.area(rle) for rle in fields["segmentation"]])}
    if "keypoints" in fields:
        points = fields["keypoints"].reshape(len(fields["keypoints"]), -1, 3)[..., :2]
        return {**fields, "area": np.ptp(points, axis=1).prod(axis=1)}
    return fields


def _columns(fields: dict[str, Any], one: Detections | LabelledImage, **more: NDArray[Any]) -> dict[str, Sequence[Any]]:
    """Return the fields of one image's annotations, each a list over its objects; `more` is added, or put in place."""
    columns = {**fields, "category_id": one.class_ids, **more}
    return {name: column if isinstance(column, list) else column.tolist() for name, column in columns.items()}


def _annotations(columns: Sequence[dict[str, Sequence[Any]]]) -> list[dict[str, Any]]:
    """Return COCO annotations from each image's fields."""
    annotations: list[dict[str, Any]] = []
    for image_id, fields in enumerate(columns):
        for row in zip(*fields.values(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCOeval takes id 0 for "not matched"
                    "image_id": image_id,
                    "iscrowd": 0,
                    **dict(zip(fields, row, strict=True)),
                }
            )
    return annotations


def _index(annotations: list[dict[str, Any]], images: Sequence[LabelledImage], class_ids: Sequence[int]) -> COCO:
    """Return an indexed COCO set built in memory; unlike COCO.loadRes it takes an empty list too."""
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": image_id, "width": image.size_wh[0], "height": image.size_wh[1]}
            for image_id, image in enumerate(images)
        ],
        "categories": [{"id": class_id} for class_id in class_ids],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
