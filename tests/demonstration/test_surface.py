from __future__ import annotations

import numpy as np
import pytest

from visionlora.demonstration.surface import SURFACE_NAMES, compose_surface, draw_surface


@pytest.mark.parametrize("size", [96, 160, 200])
def test_pictures_have_the_asked_size_and_valid_boxes(size: int) -> None:
    for seed in range(15):
        image, boxes, class_ids = draw_surface(np.random.default_rng(seed), size)

        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(class_ids), 4) and boxes.dtype == np.float32 and class_ids.dtype == np.int64
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_equal_seeds_draw_equal_pictures_and_others_do_not() -> None:
    first, again, other = (draw_surface(np.random.default_rng(seed), 128) for seed in (7, 7, 8))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.image_bgr, other.image_bgr)


def test_every_class_is_drawn_and_some_pictures_have_no_defect() -> None:
    pictures = [draw_surface(np.random.default_rng([1, i]), 128) for i in range(150)]

    ids = np.concatenate([picture.class_ids for picture in pictures])
    assert np.bincount(ids, minlength=len(SURFACE_NAMES)).min() >= 20
    assert 4 <= sum(len(picture.class_ids) == 0 for picture in pictures) <= 40


def test_defects_change_pixels_inside_their_boxes_and_up_to_the_sides() -> None:
    for seed in range(60):
        scene = compose_surface(np.random.default_rng(seed), 160)
        boxes = draw_surface(np.random.default_rng(seed), 160).boxes_xyxy.astype(int)
        change = np.abs(scene.damaged - scene.clean).max(axis=2) / scene.clean.mean()
        inside = np.zeros(change.shape, bool)

        for x1, y1, x2, y2 in boxes:
            inside[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = True
            region = change[y1:y2, x1:x2]
            sides = region[:2].max(), region[-2:].max(), region[:, :2].max(), region[:, -2:].max()
            assert min(sides) > 0.01, f"seed {seed}: a side of the box shows nothing of the defect"
        assert (change[~inside] > 0.15).sum() <= 0.01 * inside.sum()


def test_every_defect_can_be_told_from_the_bare_metal() -> None:
    for seed in range(60):
        scene = compose_surface(np.random.default_rng(seed), 160)

        for mask in scene.masks:
            change = np.abs(scene.damaged - scene.clean).max(axis=2)[mask].mean()
            assert change > 0.04 * scene.clean.mean()
