from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from ultralytics.utils.nms import non_max_suppression

from visionlora.errors import UsageError
from visionlora.tasks import DETECT
from visionlora.vision.boxes import iou_matrix, nms
from visionlora.vision.detections import MAX_CANDIDATES, Detections, Timing, check_thresholds


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
    assert nms(boxes, [0.9, 0.8], [0, 0], iou_threshold=0.5, max_detections=300).tolist() == [0, 1]
    assert nms(boxes, [0.9, 0.8], [0, 0], iou_threshold=0.49, max_detections=300).tolist() == [0]
    assert nms(boxes, [0.9, 0.8], [0, 1], iou_threshold=0.1, max_detections=300).tolist() == [0, 1]


def test_nms_of_nothing_is_nothing():
    assert nms(np.zeros((0, 4)), [], [], iou_threshold=0.5, max_detections=300).shape == (0,)


@pytest.mark.parametrize("confidence", [0.001, 0.25, 0.9])
def test_decode_equals_the_validator_of_ultralytics(confidence):
    prediction = random_prediction(4, 300, np.random.default_rng(2))
    (expected,) = non_max_suppression(
        torch.from_numpy(prediction)[None].clone(), confidence, 0.7, multi_label=True, max_det=300
    )
    found = DETECT.decode([prediction], nms=True, confidence=confidence, iou_threshold=0.7, max_detections=300)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes_xyxy, expected[:, :4], atol=1e-3)
    np.testing.assert_array_equal(found.scores, expected[:, 4])
    np.testing.assert_array_equal(found.class_ids, expected[:, 5])


def test_decode_gives_an_anchor_all_its_classes():
    prediction = np.array([[50], [50], [20], [10], [0.9], [0.1], [0.8]], dtype=np.float32)
    found = DETECT.decode([prediction], nms=True)
    assert found.class_ids.tolist() == [0, 2]
    assert found.boxes_xyxy.tolist() == [[40, 45, 60, 55]] * 2


def test_decode_of_an_end_to_end_head_takes_the_best_pairs():
    prediction = random_prediction(5, 60, np.random.default_rng(3))
    found = DETECT.decode([prediction], nms=False, confidence=0.001, max_detections=10)
    best = np.argsort(prediction[4:], axis=None)[::-1][:10]
    np.testing.assert_array_equal(found.scores, prediction[4:].flat[best])
    np.testing.assert_array_equal(found.class_ids, best // 60)
    centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
    np.testing.assert_allclose(centres, prediction[:2, best % 60].T, atol=1e-4)


def test_decode_of_an_end_to_end_head_removes_nothing():
    prediction = np.array([[50, 50], [50, 50], [20, 20], [20, 20], [0.8, 0.9]], dtype=np.float32)
    assert len(DETECT.decode([prediction], nms=False)) == 2
    assert len(DETECT.decode([prediction], nms=True)) == 1


def test_decode_gives_nothing_below_the_confidence():
    prediction = np.array([[50], [50], [20], [20], [0.25]], dtype=np.float32)
    assert len(DETECT.decode([prediction], nms=True, confidence=0.25)) == 0
    assert len(DETECT.decode([prediction], nms=False, confidence=0.25)) == 0


def test_decode_ignores_scores_that_are_no_numbers():
    prediction = np.array([[50, 9], [50, 9], [20, 4], [20, 4], [np.nan, 0.5]], dtype=np.float32)
    assert DETECT.decode([prediction], nms=True).scores.tolist() == [0.5]


def test_decode_keeps_the_first_of_equal_scores_when_there_are_too_many():
    count = MAX_CANDIDATES + 50
    prediction = np.ones((5, count), dtype=np.float32)
    prediction[0] = np.arange(count) * 10  # apart, so that none is removed
    found = DETECT.decode([prediction], nms=True, max_detections=3)
    assert found.boxes_xyxy[:, 0].tolist() == [-0.5, 9.5, 19.5]
    assert DETECT.decode([prediction], nms=False, max_detections=3).boxes_xyxy[:, 0].tolist() == [-0.5, 9.5, 19.5]


@pytest.mark.parametrize("shape", [(4, 10), (1, 84, 10), (84,)])
def test_decode_refuses_another_shape(shape):
    with pytest.raises(UsageError, match=r"expected 1 output.* the first of shape"):
        DETECT.decode([np.zeros(shape, dtype=np.float32)], nms=True)


def test_wrong_thresholds_are_listed_together():
    with pytest.raises(UsageError) as caught:
        check_thresholds(1.5, -0.1, 0)
    assert all(name in str(caught.value) for name in ("confidence", "iou_threshold", "max_detections"))
    check_thresholds(0, 1, 1)


def as_boxes(numbers: list[float]) -> np.ndarray:
    """(N, 4) boxes of any four numbers each: the smaller of two sides is left or top."""
    corners = np.array(numbers, dtype=np.float32).reshape(-1, 2, 2)
    return np.sort(corners, axis=1).reshape(-1, 4)


coordinates = st.integers(0, 40).map(float)
some_boxes = st.integers(0, 12).flatmap(lambda n: st.lists(coordinates, min_size=4 * n, max_size=4 * n)).map(as_boxes)


@given(some_boxes, some_boxes)
def test_overlap_is_symmetric_bounded_and_that_of_torchvision(a, b):
    overlap = iou_matrix(a, b)
    assert overlap.shape == (len(a), len(b)) and ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(overlap, iou_matrix(b, a).T)
    full = [(box[2] - box[0]) * (box[3] - box[1]) > 0 for box in a]
    np.testing.assert_array_equal(np.diag(iou_matrix(a, a)), np.array(full, dtype=np.float32))
    expected = torchvision.ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).nan_to_num().numpy()
    np.testing.assert_allclose(overlap, expected, atol=1e-6)


@given(some_boxes, st.floats(0.05, 0.95), st.integers(1, 4), st.integers(0, 1000))
def test_suppression_of_any_boxes_is_that_of_torchvision(boxes, iou_threshold, classes, seed):
    generator = np.random.default_rng(seed)
    scores = generator.permutation(np.linspace(0.1, 0.9, len(boxes))).astype(np.float32)  # all differ
    class_ids = generator.integers(0, classes, len(boxes))
    kept = nms(boxes, scores, class_ids, iou_threshold=iou_threshold, max_detections=300)
    # Class by class, so that no offset of torchvision's own rounds a box; an empty box has no IoU there.
    expected = [
        rows[torchvision.ops.nms(*map(torch.from_numpy, (boxes[rows], scores[rows])), iou_threshold).numpy()]
        for rows in (np.flatnonzero(class_ids == one) for one in range(classes))
    ]
    assert sorted(kept.tolist()) == sorted(np.concatenate(expected).tolist())
    assert (np.diff(scores[kept]) < 0).all()


@given(some_boxes, st.integers(1, 5))
def test_what_is_kept_is_the_same_however_many_are_wanted(boxes, most):
    scores = np.linspace(0.9, 0.1, len(boxes))
    everything = nms(boxes, scores, np.zeros(len(boxes)), iou_threshold=0.5, max_detections=300)
    np.testing.assert_array_equal(
        nms(boxes, scores, np.zeros(len(boxes)), iou_threshold=0.5, max_detections=most), everything[:most]
    )


FOUND = Detections(
    [[0, 0, 10, 10], [20, 20, 40, 30], [5, 5, 9, 9]],
    [0.5, 0.75, 0.25],
    [0, 2, 0],
    names=("scratch", "pit", "dent"),
    timing=Timing(0.001, 0.02, 0.003),
)


def test_a_class_is_asked_for_by_name_or_number():
    assert FOUND.labels == ["scratch", "dent", "scratch"]
    assert FOUND.of("scratch").scores.tolist() == [0.5, 0.25] and FOUND.of(0, "dent").labels == FOUND.labels
    assert len(FOUND.of("pit")) == 0 and FOUND.of("pit").names == FOUND.names
    for unknown in ("rust", 3, -1):
        with pytest.raises(UsageError, match=f"expected some of scratch, pit, dent, got {unknown}"):
            FOUND.of(unknown)


def test_without_names_classes_are_numbers():
    found = Detections([[0, 0, 1, 1]], [0.5], [7])
    assert found.labels == ["7"] and len(found.of(7)) == 1 and len(found.of(6)) == 0
    with pytest.raises(UsageError, match="expected class ids from 0 to 1"):
        Detections([[0, 0, 1, 1]], [0.5], [7], names=("a", "b"))


@pytest.mark.parametrize(
    ("region", "scores"),
    [
        ([0, 0, 15, 15], [0.5, 0.25]),
        ([5, 5, 5, 5], [0.5]),
        ([30, 25, 90, 90], [0.75]),
        ([[0, 0], [6, 0], [6, 6], [0, 6]], [0.5]),
        ([[0, 0], [50, 0], [50, 50]], [0.5, 0.75, 0.25]),
        ([[0, 0], [50, 50], [0, 50]], [0.5, 0.25]),
        ([[0, 0], [60, 0], [60, 60], [30, 24], [0, 60]], [0.5, 0.25]),
    ],
    ids=["box", "a point", "edge", "square", "triangle", "its edge", "a notch"],
)
def test_a_region_keeps_the_boxes_whose_centre_it_holds(region, scores):
    assert FOUND.within(region).scores.tolist() == scores


@given(some_boxes, st.lists(coordinates, min_size=4, max_size=4).map(as_boxes))
def test_a_box_and_its_corners_are_one_region(boxes, region):
    found = Detections(boxes, np.linspace(0, 1, len(boxes)), np.zeros(len(boxes)))
    left, top, right, bottom = region[0].tolist()
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= [left, top]) & (centres <= [right, bottom])).all(axis=1)
    assert found.within(region[0]).scores.tolist() == found.within(corners).scores.tolist()
    np.testing.assert_array_equal(found.within(corners).scores, found.scores[inside])


@pytest.mark.parametrize("region", [[], [1, 2], [[0, 0], [1, 1]], [[0, 0, 0]] * 3, [0, 0, np.nan, 1]], ids=str)
def test_what_is_no_region_is_refused(region):
    with pytest.raises(UsageError, match="expected a box"):
        FOUND.within(region)


def test_dictionaries_hold_what_json_can():
    entry = json.loads(json.dumps(FOUND.to_dict()))
    first = {"box_xyxy": [0.0, 0.0, 10.0, 10.0], "score": 0.5, "class_id": 0, "name": "scratch"}
    assert entry["detections"][0] == first and len(entry["detections"]) == 3
    assert entry["milliseconds"] == {"prepare": 1.0, "network": 20.0, "decode": 3.0}
    assert Detections([], [], []).to_dict() == {"detections": []} and FOUND.timing.total == pytest.approx(0.024)


def test_coco_results_are_those_that_pycocotools_reads():
    rows = FOUND.to_coco(7)
    assert rows[1]["bbox"] == [20, 20, 20, 10] and rows[1]["category_id"] == 2
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": i} for i in range(3)], "annotations": []}
    truth.createIndex()
    assert [one["area"] for one in truth.loadRes(rows).loadAnns([1, 2, 3])] == [100, 200, 16]


def test_supervision_gets_the_same_boxes_and_names():
    supervision = pytest.importorskip("supervision")
    found = FOUND.to_supervision()
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.xyxy, FOUND.boxes_xyxy)
    assert found.data["class_name"].tolist() == FOUND.labels and found[found.confidence > 0.4].class_id.tolist() == [
        0,
        2,
    ]
    assert len(Detections([], [], [], names=("a",)).to_supervision()) == 0


def test_without_supervision_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install supervision"):
        FOUND.to_supervision()


@given(some_boxes, st.sampled_from([(1, 1), (7, 50), (64, 64)]))
def test_boxes_are_drawn_on_a_copy_of_any_picture(boxes, size_wh):
    found = Detections(boxes, np.full(len(boxes), 0.5), np.arange(len(boxes)))
    image = np.full((size_wh[1], size_wh[0], 3), 127, dtype=np.uint8)
    drawn = found.draw(image)
    assert drawn.shape == image.shape and (image == 127).all() and (drawn != 127).any() == (len(found) > 0)


def test_each_class_has_its_own_threshold():
    raw = np.array([[50] * 3, [50, 150, 250], [20] * 3, [20] * 3, [0.9, 0.3, 0.2], [0.1, 0.6, 0.8]], dtype=np.float32)
    assert DETECT.decode([raw], nms=True, confidence=[0.25, 0.7]).class_ids.tolist() == [0, 1, 0]
    one_number = DETECT.decode([raw], nms=True, confidence=[0.25, 0.25])
    np.testing.assert_array_equal(one_number.scores, DETECT.decode([raw], nms=True, confidence=0.25).scores)
    with pytest.raises(UsageError, match="expected 2 numbers, one a class, got 3"):
        DETECT.decode([raw], nms=True, confidence=[0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match=r"confidence: expected a number in \[0, 1\]"):
        DETECT.decode([raw], nms=True, confidence=[0.1, 1.2])
