"""How much each detection is each object, by what a task compares: boxes, masks, keypoints or oriented boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import Params

from visionlora.data import LabelledImage
from visionlora.vision.boxes import iou_matrix
from visionlora.vision.detections import Detections

Matrix: TypeAlias = NDArray[np.floating[Any]]
_EPS = np.finfo(np.float64).eps


def overlap_of(iou_type: str, detections: Detections, image: LabelledImage) -> tuple[Matrix, Matrix]:
    """Return how much each detection is each object, and which share of it lies in each, were that a crowd.

    Args:
        iou_type: what is compared, as a task says.
        detections: N of them.
        image: the ground truth, with G objects.

    Returns:
        IoU, or OKS of keypoints, (N, G), and the shares, (N, G); both in [0, 1].
    """
    if not len(detections) or not len(image.class_ids):
        nothing = np.zeros((len(detections), len(image.class_ids)))
        return nothing, nothing
    return _OVERLAPS[iou_type](detections, image)


def sigmas_of(image: LabelledImage, keypoints: int) -> NDArray[np.float64]:
    """Return the sigma of each keypoint: the data set's; else COCO's for a person's 17, and 1 / K for others.

    1 / K is Ultralytics' (`PoseValidator.init_metrics`).
    """
    if image.sigmas is not None:
        return image.sigmas
    coco = Params(iouType="keypoints").kpt_oks_sigmas
    return coco if keypoints == len(coco) else np.full(keypoints, 1 / keypoints)


def judged_objects(image: LabelledImage, iou_type: str) -> NDArray[np.bool_]:
    """Return (G,) which objects can be found or missed: no crowds, and of keypoints none without a labelled one."""
    if iou_type != "keypoints" or image.keypoints is None:
        return ~image.is_crowd
    return ~image.is_crowd & (image.keypoints[..., 2] > 0).any(axis=1)


def oks_matrix(keypoints: Matrix, image: LabelledImage) -> NDArray[np.float64]:
    """Return (N, G) the object keypoint similarity of (N, K, 3) keypoints to an image's objects, as pycocotools has it.

    The mean over the labelled keypoints of exp(-d^2 / (2 * area * (2 * sigma)^2)); of an object without any, d is how
    far a keypoint lies outside of its box, three times as wide and high.
    """
    assert image.keypoints is not None  # of a pose data set
    found, truth = keypoints.astype(np.float64)[:, None], image.keypoints.astype(np.float64)[None]
    boxes = image.boxes_xyxy.astype(np.float64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    low, high = (boxes[:, :2] - sizes)[:, None], (boxes[:, 2:] + sizes)[:, None]
    labelled = truth[..., 2] > 0  # (1, G, K)
    outside = np.maximum(low - found[..., :2], 0) + np.maximum(found[..., :2] - high, 0)
    some = np.any(labelled, axis=-1, keepdims=True)
    distances = np.where(some[..., None], found[..., :2] - truth[..., :2], outside)  # (N, G, K, 2)
    spread = (2 * sigmas_of(image, truth.shape[2])) ** 2
    areas = image.object_areas[:, None] + np.spacing(1)
    likeness = np.exp(-(distances**2).sum(axis=-1) / (2 * spread * areas))
    counted = labelled | ~some
    return (likeness * counted).sum(axis=-1) / counted.sum(axis=-1)


def oriented_iou(a: Matrix, b: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the IoU of oriented boxes, and which share of each of `a` lies in each of `b`.

    Args:
        a: (N, 5) centre x, y, width, height, and angle in radians.
        b: (M, 5).

    Returns:
        Both (N, M).

    Example:
        >>> iou, share = oriented_iou(np.array([[0, 0, 4, 2, 0.0]]), np.array([[0, 0, 2, 4, 0.0]]))
        >>> float(iou[0, 0].round(4)), float(share[0, 0].round(4))
        (0.3333, 0.5)
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    shared = np.zeros((len(a), len(b)))
    # Circles around both: those that do not meet have nothing in common.
    distance = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=-1)
    reach = np.hypot(a[:, 2], a[:, 3])[:, None] / 2 + np.hypot(b[:, 2], b[:, 3])[None] / 2
    for row, column in zip(*np.nonzero(distance < reach), strict=True):
        shared[row, column] = _shared_area(a[row], b[column])
    own, other = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    shared = np.minimum(shared, np.minimum(own[:, None], other[None]))
    union = own[:, None] + other[None] - shared
    return shared / np.maximum(union, _EPS), shared / np.maximum(own[:, None], _EPS)


def _shared_area(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return what two oriented boxes have in common, in square pixels."""
    # Around the first one's centre and size: OpenCV computes in float32.
    scale = max(a[2], a[3], b[2], b[3], _EPS)
    kind, points = cv2.rotatedRectangleIntersection(
        ((0.0, 0.0), tuple(a[2:4] / scale), float(np.degrees(a[4]))),
        (tuple((b[:2] - a[:2]) / scale), tuple(b[2:4] / scale), float(np.degrees(b[4]))),
    )
    if kind == cv2.INTERSECT_NONE or points is None:
        return 0.0
    return float(cv2.contourArea(cv2.convexHull(points))) * scale**2


def _boxes(detections: Detections, image: LabelledImage) -> tuple[Matrix, Matrix]:
    a, b = detections.boxes_xyxy, image.boxes_xyxy
    return iou_matrix(a, b), _inside(a, b)


def _masks(detections: Detections, image: LabelledImage) -> tuple[Matrix, Matrix]:
    assert detections.masks is not None and image.segments is not None
    found = [detections.masks.rle(index) for index in range(len(detections))]
    truth = [segment_rle(segment, image.size_wh) for segment in image.segments]
    ious, shares = (coco_mask.iou(found, truth, [crowd] * len(truth)) for crowd in (0, 1))
    return np.asarray(ious), np.asarray(shares)


def segment_rle(segment: Any, size_wh: tuple[int, int]) -> dict[str, Any]:
    """Return one of a `LabelledImage`'s segments as a compressed RLE."""
    width, height = size_wh
    if isinstance(segment, dict):
        rle: dict[str, Any] = (
            coco_mask.frPyObjects(segment, height, width) if isinstance(segment["counts"], list) else segment
        )
        return rle
    merged: dict[str, Any] = coco_mask.merge(
        coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in segment], height, width)
    )
    return merged


def _keypoints(detections: Detections, image: LabelledImage) -> tuple[Matrix, Matrix]:
    assert detections.keypoints is not None
    likeness = oks_matrix(detections.keypoints, image)
    return likeness, likeness  # as pycocotools: a crowd's OKS is that of any other object


def _oriented(detections: Detections, image: LabelledImage) -> tuple[Matrix, Matrix]:
    assert detections.obb is not None and image.obb is not None
    return oriented_iou(detections.obb, image.obb)


def _inside(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, M) which share of each box of `a` lies in each box of `b`."""
    a, b = a_xyxy.reshape(-1, 1, 4), b_xyxy.reshape(1, -1, 4)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    area = np.maximum((a[..., 2:] - a[..., :2]).prod(axis=-1), np.finfo(np.float32).tiny)
    return sides.prod(axis=-1) / area


_OVERLAPS: dict[str, Callable[[Detections, LabelledImage], tuple[Matrix, Matrix]]] = {
    "bbox": _boxes,
    "segm": _masks,
    "keypoints": _keypoints,
    "obb": _oriented,
}
