"""Tiles cover the picture, and what they find is found once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionlora.errors import UsageError
from visionlora.vision.detections import Detections
from visionlora.vision.masks import RleMasks, encode_rle
from visionlora.vision.tiles import Tiling, detect_in_tiles, merged, tiling_of


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 300), st.floats(0, 0.9))
def test_tiles_cover_the_picture_and_overlap_as_asked(width, height, size, overlap):
    whole, *tiles = Tiling(size, overlap).views((width, height))
    assert whole == (0, 0, width, height)
    covered = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in tiles:
        assert (right - left, bottom - top) == (min(size, width), min(size, height))
        covered[top:bottom, left:right] = True
    assert covered.all() or (not tiles and max(width, height) <= size)
    starts = sorted({left for left, *_ in tiles})
    assert all(after - before <= size * (1 - overlap) for before, after in pairwise(starts))


def found(boxes, scores, classes=None, **more) -> Detections:
    return Detections(np.array(boxes, dtype=np.float32).reshape(-1, 4), scores, classes or [0] * len(scores), **more)


VIEWS = ((0, 0, 160, 100), (0, 0, 100, 100), (60, 0, 160, 100))
NONE = found([], [])


@pytest.mark.parametrize(
    ("views", "boxes"),
    [
        ([found([[70, 20, 90, 40]], [0.5]), found([[71, 20, 91, 40]], [0.9]), NONE], [[71, 20, 91, 40]]),
        ([found([[40, 20, 150, 40]], [0.5]), found([[40, 20, 100, 40]], [0.9]), NONE], [[40, 20, 150, 40]]),
        ([NONE, found([[70, 20, 100, 40]], [0.9]), found([[0, 20, 52, 40]], [0.8])], [[70, 20, 100, 40]]),
        (
            [found([[10, 10, 90, 90]], [0.9]), found([[20, 20, 30, 30]], [0.8]), NONE],
            [[10, 10, 90, 90], [20, 20, 30, 30]],
        ),
        ([found([[9, 9, 30, 30], [9, 9, 30, 29]], [0.9, 0.8]), NONE, NONE], [[9, 9, 30, 30], [9, 9, 30, 29]]),
        ([found([[9, 9, 30, 30]], [0.9], [1]), found([[9, 9, 30, 30]], [0.8]), NONE], [[9, 9, 30, 30]] * 2),
        ([NONE, NONE, NONE], []),
    ],
    ids=["same object", "part of a whole", "two parts", "small before large", "one view", "two classes", "nothing"],
)
def test_each_object_is_found_once(views, boxes):
    assert merged(views, VIEWS, (160, 100)).boxes_xyxy.tolist() == boxes


def test_options_of_the_suppression_hold_across_views():
    views = [found([[9, 9, 30, 30]], [0.9], [1]), found([[9, 9, 30, 28]], [0.8]), NONE]
    assert len(merged(views, VIEWS, (160, 100), agnostic=True)) == 1
    assert len(merged(views, VIEWS, (160, 100), max_detections=1)) == 1


def test_what_lies_beside_the_box_moves_along():
    mask = encode_rle((1, 2, 3, 4), np.ones((2, 2), dtype=bool), (100, 100))
    empty = {"keypoints": np.empty((0, 1, 3)), "obb": np.empty((0, 5))}
    nothing = [found([], [], masks=RleMasks((), view), **empty) for view in ((160, 100), (100, 100))]
    more = {"keypoints": [[[1, 2, 0.5]]], "obb": [[2, 3, 2, 2, 0]], "masks": RleMasks((mask,), (100, 100))}
    one = merged([*nothing, found([[1, 2, 3, 4]], [0.9], **more)], VIEWS, (160, 100))
    assert one.keypoints.tolist() == [[[61, 2, 0.5]]] and one.obb.tolist() == [[62, 3, 2, 2, 0]]
    assert one.masks.size_wh == (160, 100) and one.masks.crop(0)[0] == (61, 2, 63, 4)


def test_a_blob_is_found_at_its_place_in_every_tile():
    def find(view):
        ys, xs = np.nonzero(view[..., 0])
        return NONE if not len(xs) else found([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], [0.9])

    image = np.zeros((150, 200, 3), dtype=np.uint8)
    image[70:80, 110:130] = 255
    assert detect_in_tiles(find, image, Tiling(64, 0.4)).boxes_xyxy.tolist() == [[110, 70, 130, 80]]


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [(8, None, "at least 32 px, got 8"), (64, 1.0, "from 0 to 0.9, got 1"), (None, 0.2, "expected --tile beside it")],
)
def test_tiles_that_nobody_can_mean_are_refused(tile, overlap, message):
    with pytest.raises(UsageError, match=message):
        tiling_of(tile, overlap)
