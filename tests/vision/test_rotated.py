"""Rotated boxes overlap, suppress each other and turn as in Ultralytics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ultralytics.utils.metrics import batch_probiou
from ultralytics.utils.nms import TorchNMS
from ultralytics.utils.ops import regularize_rboxes, xywhr2xyxyxyxy

from visionlora.vision.rotated import corners_of, probiou, regularized, rotated_nms, upright


def rotated(count: int, *, seed: int = 0, room: float = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sides = rng.uniform(4, 80, (count, 2))
    angles = rng.uniform(-math.pi / 4, 3 * math.pi / 4, (count, 1))
    return np.concatenate([rng.uniform(0, room, (count, 2)), sides, angles], axis=1).astype(np.float32)


def test_overlap_corners_and_angles_are_those_of_ultralytics() -> None:
    boxes = rotated(200)
    theirs = torch.from_numpy(boxes)

    np.testing.assert_allclose(probiou(boxes[:, None], boxes[None]), batch_probiou(theirs, theirs), atol=2e-3)
    np.testing.assert_allclose(corners_of(boxes), xywhr2xyxyxyxy(theirs), atol=1e-3)
    ours = regularized(boxes)
    np.testing.assert_allclose(ours, regularize_rboxes(theirs), atol=1e-4)
    assert (ours[:, 4] >= 0).all() and (ours[:, 4] < math.pi / 2).all()
    np.testing.assert_allclose(upright(ours), upright(boxes), atol=1e-3)  # the same box


@pytest.mark.parametrize(("count", "iou"), [(0, 0.7), (1, 0.7), (900, 0.7), (900, 0.3), (900, 0.0), (900, 1.0)])
def test_suppression_is_that_of_ultralytics_within_each_class(count, iou) -> None:
    rng = np.random.default_rng(1)
    boxes, class_ids = rotated(count, seed=2), rng.integers(0, 3, count)
    scores = rng.permutation(count).astype(np.float32) / max(count, 1)
    offset = torch.from_numpy(boxes + class_ids[:, None] * np.float32([7680, 7680, 0, 0, 0]))
    theirs = TorchNMS.fast_nms(offset, torch.from_numpy(scores), iou, iou_func=batch_probiou)
    ours = rotated_nms(boxes, scores, class_ids, iou_threshold=iou, max_detections=10_000)

    # A pair may overlap by almost the threshold.
    assert len(set(ours.tolist()) ^ set(theirs.tolist())) <= 0.01 * count
    assert rotated_nms(boxes, scores, class_ids, iou_threshold=iou, max_detections=5).tolist() == ours[:5].tolist()


def test_a_box_that_is_removed_removes_others() -> None:
    row = np.array([[x, 10, 30, 10, 0.3] for x in (10, 13, 16)], dtype=np.float32)
    options = {"iou_threshold": 0.7, "max_detections": 9}

    assert probiou(row[0], row[2]) < 0.7 < probiou(row[0], row[1])
    assert rotated_nms(row, [0.9, 0.8, 0.7], [0, 0, 0], **options).tolist() == [0]
    assert rotated_nms(row, [0.9, 0.8, 0.7], [0, 1, 0], **options).tolist() == [0, 1, 2]
