from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.nms import non_max_suppression

from visionlora.detections import MAX_CANDIDATES, Detections, check_thresholds, decode, iou_matrix, nms
from visionlora.errors import UsageError


def random_boxes(count: int, generator: np.random.Generator, *, side: float = 100) -> np.ndarray:
    corners = generator.uniform(0, side, (count, 2))
    return np.concatenate([corners, corners + generator.uniform(1, side / 2, (count, 2))], axis=1).astype(np.float32)


def random_prediction(classes: int, anchors: int, generator: np.random.Generator) -> np.ndarray:
    boxes = np.concatenate([generator.uniform(0, 320, (2, anchors)), generator.uniform(2, 120, (2, anchors))])
    # Scores all differ, so that no order hangs on a tie.
    scores = generator.permutation(np.linspace(0, 1, classes * anchors)).reshape(classes, anchors)
    return np.concatenate([boxes, scores]).astype(np.float32)


def test_detections_have_the_documented_types():
    found = Detections([[0, 0, 2, 2]], [1], [3])
    assert found.boxes_xyxy.dtype == np.float32 and found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64 and len(found) == 1


def test_empty_detections_keep_their_shapes():
    found = Detections([], [], [])
    assert len(found) == 0 and found.boxes_xyxy.shape == (0, 4)
    assert len(found.top(3)) == 0 and len(found.above(0.1)) == 0


@pytest.mark.parametrize(
    ("boxes", "scores", "class_ids"),
    [
        pytest.param([[0, 0, 1, 1]], [0.5, 0.5], [0], id="a score too many"),
        pytest.param([[0, 0, 1, 1]], [0.5], [], id="no class"),
        pytest.param([[0, 0, 1]], [0.5], [0], id="three numbers a box"),
        pytest.param([0, 0, 1, 1], [0.5], [0], id="a flat box"),
        pytest.param([[0, 0, 1, 1]], [[0.5]], [0], id="scores of two dimensions"),
    ],
)
def test_detections_refuse_wrong_shapes(boxes, scores, class_ids):
    with pytest.raises(UsageError, match="expected boxes"):
        Detections(boxes, scores, class_ids)


def test_top_gives_the_best_first_and_keeps_the_order_of_ties():
    found = Detections(np.zeros((4, 4)), [0.2, 0.9, 0.2, 0.5], [0, 1, 2, 3])
    assert found.top(3).class_ids.tolist() == [1, 3, 0]
    assert len(found.top(0)) == 0 and len(found.top(99)) == 4


def test_above_is_strict():
    found = Detections(np.zeros((3, 4)), [0.25, 0.5, 0.75], [0, 1, 2])
    assert found.above(0.5).class_ids.tolist() == [2]


def test_iou_equals_torchvision():
    generator = np.random.default_rng(0)
    a, b = random_boxes(40, generator), random_boxes(30, generator)
    expected = torchvision.ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert (expected > 0).any()
    np.testing.assert_allclose(iou_matrix(a, b), expected, rtol=1e-6)


def test_iou_of_empty_boxes_is_zero():
    assert iou_matrix([[3, 3, 3, 3]], [[3, 3, 3, 3], [0, 0, 9, 9]]).tolist() == [[0, 0]]
    assert iou_matrix(np.zeros((0, 4)), [[0, 0, 9, 9]]).shape == (0, 1)


# Whole numbers, so that the class offsets of torchvision round nothing, and thresholds that float32 holds exactly.
coordinates = st.integers(0, 12)
boxes_with_class = st.lists(
    st.tuples(coordinates, coordinates, coordinates, coordinates, st.integers(0, 2)), max_size=40
)


@settings(max_examples=200)
@given(rows=boxes_with_class, threshold=st.sampled_from([0.25, 0.5, 0.75]), seed=st.integers(0, 1000))
def test_nms_equals_torchvision(rows, threshold, seed):
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    scores = np.random.default_rng(seed).permutation(len(rows)).astype(np.float32)
    expected = torchvision.ops.batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(table[:, 4]).long(), threshold
    )
    kept = nms(boxes, scores, table[:, 4].astype(int), iou_threshold=threshold, max_detections=300)
    assert kept.tolist() == expected.tolist()


def test_nms_of_many_boxes_equals_torchvision():
    generator = np.random.default_rng(1)
    boxes = np.round(random_boxes(2000, generator))  # more than a block, and many duplicates
    scores, classes = generator.permutation(2000).astype(np.float32), generator.integers(0, 3, 2000)
    expected = torchvision.ops.batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), 0.5
    ).numpy()
    kept = nms(boxes, scores, classes, iou_threshold=0.5, max_detections=2000)
    assert 256 < len(kept) < 2000
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(nms(boxes, scores, classes, iou_threshold=0.5, max_detections=7), expected[:7])


def test_nms_removes_only_what_overlaps_more_than_the_threshold():
    boxes = [[0, 0, 2, 2], [0, 0, 2, 1]]  # IoU exactly 0.5
    assert nms(boxes, [0.9, 0.8], [0, 0], iou_threshold=0.5).tolist() == [0, 1]
    assert nms(boxes, [0.9, 0.8], [0, 0], iou_threshold=0.49).tolist() == [0]
    assert nms(boxes, [0.9, 0.8], [0, 1], iou_threshold=0.1).tolist() == [0, 1]


def test_nms_of_nothing_is_nothing():
    assert nms(np.zeros((0, 4)), [], []).shape == (0,)


@pytest.mark.parametrize("confidence", [0.001, 0.25, 0.9])
def test_decode_equals_the_validator_of_ultralytics(confidence):
    prediction = random_prediction(4, 300, np.random.default_rng(2))
    (expected,) = non_max_suppression(
        torch.from_numpy(prediction)[None].clone(), confidence, 0.7, multi_label=True, max_det=300
    )
    found = decode(prediction, nms=True, confidence=confidence, iou_threshold=0.7, max_detections=300)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes_xyxy, expected[:, :4], atol=1e-3)
    np.testing.assert_array_equal(found.scores, expected[:, 4])
    np.testing.assert_array_equal(found.class_ids, expected[:, 5])


def test_decode_gives_an_anchor_all_its_classes():
    prediction = np.array([[50], [50], [20], [10], [0.9], [0.1], [0.8]], dtype=np.float32)
    found = decode(prediction, nms=True)
    assert found.class_ids.tolist() == [0, 2]
    assert found.boxes_xyxy.tolist() == [[40, 45, 60, 55]] * 2


def test_decode_of_an_end_to_end_head_takes_the_best_pairs():
    prediction = random_prediction(5, 60, np.random.default_rng(3))
    found = decode(prediction, nms=False, confidence=0.001, max_detections=10)
    best = np.argsort(prediction[4:], axis=None)[::-1][:10]
    np.testing.assert_array_equal(found.scores, prediction[4:].flat[best])
    np.testing.assert_array_equal(found.class_ids, best // 60)
    centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
    np.testing.assert_allclose(centres, prediction[:2, best % 60].T, atol=1e-4)


def test_decode_of_an_end_to_end_head_removes_nothing():
    prediction = np.array([[50, 50], [50, 50], [20, 20], [20, 20], [0.8, 0.9]], dtype=np.float32)
    assert len(decode(prediction, nms=False)) == 2
    assert len(decode(prediction, nms=True)) == 1


def test_decode_gives_nothing_below_the_confidence():
    prediction = np.array([[50], [50], [20], [20], [0.25]], dtype=np.float32)
    assert len(decode(prediction, nms=True, confidence=0.25)) == 0
    assert len(decode(prediction, nms=False, confidence=0.25)) == 0


def test_decode_ignores_scores_that_are_no_numbers():
    prediction = np.array([[50, 9], [50, 9], [20, 4], [20, 4], [np.nan, 0.5]], dtype=np.float32)
    assert decode(prediction, nms=True).scores.tolist() == [0.5]


def test_decode_keeps_the_first_of_equal_scores_when_there_are_too_many():
    count = MAX_CANDIDATES + 50
    prediction = np.ones((5, count), dtype=np.float32)
    prediction[0] = np.arange(count) * 10  # apart, so that none is removed
    found = decode(prediction, nms=True, max_detections=3)
    assert found.boxes_xyxy[:, 0].tolist() == [-0.5, 9.5, 19.5]
    assert decode(prediction, nms=False, max_detections=3).boxes_xyxy[:, 0].tolist() == [-0.5, 9.5, 19.5]


@pytest.mark.parametrize("shape", [(4, 10), (1, 84, 10), (84,)])
def test_decode_refuses_another_shape(shape):
    with pytest.raises(UsageError, match="expected a prediction of shape"):
        decode(np.zeros(shape, dtype=np.float32), nms=True)


def test_wrong_thresholds_are_listed_together():
    with pytest.raises(UsageError) as caught:
        check_thresholds(1.5, -0.1, 0)
    assert all(name in str(caught.value) for name in ("confidence", "iou_threshold", "max_detections"))
    check_thresholds(0, 1, 1)
