from __future__ import annotations

import numpy as np
import pytest

from visionlora.demonstration.outlines import OUTLINES
from visionlora.demonstration.shapes import SHAPE_NAMES, compose_shapes, draw_shapes
from visionlora.demonstration.surface import SURFACE_NAMES


@pytest.mark.parametrize("size", [96, 160, 200])
def test_pictures_have_the_asked_size_and_valid_boxes(size: int) -> None:
    for seed in range(15):
        image, boxes, class_ids = draw_shapes(np.random.default_rng(seed), size)

        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(class_ids), 4) and boxes.dtype == np.float32 and class_ids.dtype == np.int64
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_equal_seeds_draw_equal_pictures_and_others_do_not() -> None:
    first, again, other = (draw_shapes(np.random.default_rng(seed), 128) for seed in (7, 7, 8))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.image_bgr, other.image_bgr)


def test_every_class_is_drawn_and_none_is_rare() -> None:
    ids = np.concatenate([draw_shapes(np.random.default_rng([1, i]), 128).class_ids for i in range(150)])

    assert np.bincount(ids, minlength=len(SHAPE_NAMES)).min() >= 10


def test_no_class_is_a_class_of_the_surface_set() -> None:
    assert not set(SHAPE_NAMES) & set(SURFACE_NAMES)
    assert tuple(OUTLINES) == SHAPE_NAMES


def test_everything_that_was_painted_lies_inside_the_boxes_and_reaches_their_sides() -> None:
    for seed in range(40):
        scene = compose_shapes(np.random.default_rng(seed), 160)
        boxes = draw_shapes(np.random.default_rng(seed), 160).boxes_xyxy.astype(int)
        changed = np.abs(scene.painted - scene.background).max(axis=2) > 20
        inside = np.zeros_like(changed)

        for mask, (x1, y1, x2, y2) in zip(scene.masks, boxes, strict=True):
            inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
            assert not mask[:y1].any() and not mask[y2:].any() and not mask[:, :x1].any() and not mask[:, x2:].any()
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()
        assert (changed & ~inside).sum() <= 0.01 * max(changed.sum(), 1)


def test_a_shape_under_others_stays_mostly_visible() -> None:
    for seed in range(40):
        masks = compose_shapes(np.random.default_rng(seed), 160).masks

        overlapping = sum(mask.astype(int) for mask in masks) if masks else np.zeros(1)
        assert overlapping.max() <= 1, "a pixel belongs to the topmost shape alone"
        assert all(mask.sum() >= 12 for mask in masks)
