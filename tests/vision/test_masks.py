"""Masks agree with Ultralytics' own arithmetic, and their RLE with pycocotools."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from ultralytics.utils.ops import process_mask_native

from visionlora.errors import UsageError
from visionlora.tasks import Segment
from visionlora.vision.detections import Detections
from visionlora.vision.masks import PrototypeMasks, RleMasks, decode_rle, encode_rle, rle_area
from visionlora.vision.painters import mask_contours
from visionlora.vision.preprocess import letterbox

SIZES = {"square": (64, 64), "wide": (50, 90), "tall": (130, 40), "large": (500, 333)}
TASK = Segment(coefficients=8)


def prototype_masks(height: int, width: int, *, objects: int = 6) -> PrototypeMasks:
    """Smooth prototypes, and boxes that also leave the picture."""
    rng = np.random.default_rng(height)
    _, placement = letterbox(np.zeros((height, width, 3), dtype=np.uint8), 64)
    prototypes = np.stack([cv2.GaussianBlur(rng.normal(0, 9, (16, 16)), (7, 7), 2) for _ in range(8)])
    low = rng.uniform(-0.2, 0.6, (objects, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 0.7, (objects, 2))], axis=1) * ([width, height] * 2)
    boxes = np.clip(boxes, 0, [width, height] * 2).astype(np.float32)
    factors = rng.normal(0, 1, (objects, 8)).astype(np.float32)
    return PrototypeMasks(factors, prototypes.astype(np.float32), boxes, placement, 64)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_masks_are_those_of_ultralytics_but_for_some_pixels(size) -> None:
    masks = prototype_masks(*size)
    arrays = (masks.prototypes, masks.coefficients, masks.boxes_xyxy)
    theirs = process_mask_native(*map(torch.from_numpy, arrays), size).numpy() > 0
    ours = np.stack([masks.dense(index) for index in range(len(masks))])

    # Ultralytics rounds the padding to quarters of a prototype's pixel at least.
    assert (ours != theirs).sum() <= 0.015 * theirs.sum() and theirs.any(axis=(1, 2)).sum() >= 5


def test_rle_is_that_of_pycocotools_and_comes_back() -> None:
    masks = prototype_masks(500, 333)
    kept = masks.kept()
    for index in range(len(masks)):
        dense, rle = masks.dense(index), masks.rle(index)
        expected = coco.encode(np.asfortranarray(dense.astype(np.uint8)))
        assert rle == {"size": list(expected["size"]), "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(kept.dense(index), dense)
        assert rle_area(rle) == dense.sum()
        (left, top, right, bottom), inside = kept.crop(index)
        np.testing.assert_array_equal(dense[top:bottom, left:right], inside)
    chosen = kept[np.array([4, 1])]
    np.testing.assert_array_equal(chosen.dense(0), masks[np.array([4, 1])].dense(0))


@pytest.mark.parametrize(
    "rows",
    [["..", ".."], ["##", "##"], ["#.", ".#"], [".#", "##"], ["#", ".", "#"], ["###"], ["#"], ["."]],
    ids=lambda rows: "/".join(rows),
)
def test_small_masks_are_written_as_pycocotools_writes_them(rows) -> None:
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    height, width = mask.shape
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    rle = encode_rle((0, 0, width, height), mask, (width, height))

    assert rle["counts"] == expected
    np.testing.assert_array_equal(decode_rle(rle), mask)


@pytest.mark.parametrize("counts", ["", "o", "13é", "131", "1" * 50, "oooooooooooooooooooo0"])
def test_a_broken_rle_is_refused(counts) -> None:
    with pytest.raises(UsageError, match="RLE: expected runs"):
        decode_rle({"size": [2, 3], "counts": counts})


def test_no_object_and_an_object_without_a_pixel_have_masks_too() -> None:
    none = prototype_masks(64, 64, objects=0)
    assert len(none.kept()) == 0 and len(none[np.array([], dtype=int)]) == 0
    empty = RleMasks((encode_rle((0, 0, 0, 0), np.zeros((0, 0), bool), (5, 4)),), (5, 4))

    assert not empty.dense(0).any() and empty.crop(0)[1].size == 0 and rle_area(empty.rle(0)) == 0
    found = Detections([[0, 0, 5, 4]], [0.9], [0], masks=empty, painter=TASK.draw)
    assert found.draw(np.zeros((4, 5, 3), np.uint8)).any() and TASK.label_rows(found, (5, 4)) == [[]]


def test_outlines_fill_to_the_mask_again() -> None:
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:50, 20:70], mask[20:30, 30:40] = True, False
    filled = np.zeros(mask.shape, dtype=np.uint8)
    cv2.fillPoly(filled, [np.floor(each).astype(np.int32) for each in mask_contours((0, 0, 80, 60), mask)], 1)

    assert (filled.astype(bool) != mask).sum() <= 2 * (10 + 10)  # the edge of the hole
