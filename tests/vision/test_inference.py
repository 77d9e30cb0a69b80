from __future__ import annotations

import numpy as np
import pytest

from visionlora.errors import DataError, UsageError
from visionlora.tasks import DETECT
from visionlora.vision.inference import Network, detect


class BrightSpot:
    """A network with one anchor: a box of 8 x 8 around the brightest pixel, scored by its brightness."""

    task = DETECT
    names = ("spot", "never")
    image_size = 64

    def __init__(self, *, nms: bool = True) -> None:
        self.nms = nms
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, batch, /):
        self.batches.append(batch.shape)
        prediction = np.zeros((len(batch), 6, 1), dtype=np.float32)
        for row, picture in zip(prediction, batch[:, 0], strict=True):
            y, x = np.unravel_index(picture.argmax(), picture.shape)
            row[:5, 0] = x + 0.5, y + 0.5, 8, 8, picture.max()
        return (prediction,)


def picture(width: int, height: int, x: int, y: int) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y, x] = 255
    return image


def test_boxes_come_in_pixels_of_each_image():
    network: Network = BrightSpot()
    (same, high) = detect(network, [picture(64, 64, 20, 30), picture(32, 64, 5, 40)])
    np.testing.assert_allclose(same.boxes_xyxy, [[16.5, 26.5, 24.5, 34.5]])
    np.testing.assert_allclose(high.boxes_xyxy, [[1.5, 36.5, 9.5, 44.5]])  # 16 pixels of grey on its left
    assert same.class_ids.tolist() == [0] and same.scores.tolist() == [1]


def test_all_images_go_through_the_network_at_once():
    network = BrightSpot()
    assert len(detect(network, [picture(40, 30, 1, 1)] * 3)) == 3
    assert network.batches == [(3, 3, 64, 64)]


def test_no_images_give_no_detections():
    network = BrightSpot()
    assert detect(network, []) == [] and network.batches == []


def test_the_confidence_is_heeded():
    dark = np.full((64, 64, 3), 100, dtype=np.uint8)
    assert len(detect(BrightSpot(), [dark], confidence=0.3)[0]) == 1
    assert len(detect(BrightSpot(), [dark], confidence=0.5)[0]) == 0


@pytest.mark.parametrize(("nms", "expected"), [(True, 1), (False, 2)])
def test_the_network_says_whether_duplicates_are_removed(nms, expected):
    class Twice(BrightSpot):
        def __call__(self, batch, /):
            return (np.repeat(super().__call__(batch)[0], 2, axis=2),)

    assert len(detect(Twice(nms=nms), [picture(64, 64, 9, 9)])[0]) == expected


def test_the_number_of_detections_is_heeded():
    class Everywhere(BrightSpot):
        def __call__(self, batch, /):
            prediction = np.full((len(batch), 6, 20), 0.9, dtype=np.float32)
            prediction[:, :2] = np.arange(20) * 3
            prediction[:, 2:4] = 1
            return (prediction,)

    assert len(detect(Everywhere(), [picture(64, 64, 9, 9)], max_detections=7)[0]) == 7


def test_wrong_options_and_images_are_refused_before_the_network_runs():
    network = BrightSpot()
    with pytest.raises(UsageError, match="confidence"):
        detect(network, [picture(64, 64, 9, 9)], confidence=2)
    with pytest.raises(DataError, match="expected an image"):
        detect(network, [np.zeros((4, 4), dtype=np.uint8)])
    assert network.batches == []
