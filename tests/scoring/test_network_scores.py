"""Scores of a network on labelled pictures: on the classes that it knows, whatever their order, batch and size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from visionlora.errors import DataError
from visionlora.scoring import Scores, coco_scores, find_objects
from visionlora.tasks import DETECT


def scores_of(network, images, names, **options) -> Scores:
    found = find_objects(network, images, names, **options)
    return coco_scores(found.detections, images, names, classes=found.classes, task=DETECT)


def test_perfect_network_scores_one(images, names, colour_network) -> None:
    found = find_objects(colour_network(), images, names)

    assert coco_scores(found.detections, images, names, task=DETECT).map50_95 == pytest.approx(1)
    assert found.classes == names


def test_order_of_the_classes_does_not_matter(images, names, colour_network) -> None:
    truth = [replace(image, boxes_xyxy=image.boxes_xyxy + np.float32(1.5)) for image in images]  # not perfect

    straight = scores_of(colour_network(("red", "green", "blue")), truth, names)
    permuted = scores_of(colour_network(("blue", "red", "green")), truth, names)

    assert straight == permuted
    assert 0.1 < straight.map50_95 < 0.9


def test_data_set_in_another_order_gives_the_same_scores(images, names, colour_network) -> None:
    reversed_images = [replace(image, class_ids=2 - image.class_ids) for image in images]

    scores = scores_of(colour_network(), reversed_images, names[::-1])

    assert scores.map50_95 == pytest.approx(1)
    assert [score.name for score in scores.per_class] == ["blue", "green", "red"]


def test_network_is_scored_on_the_classes_it_shares(images, names, colour_network) -> None:
    network = colour_network(("dog", "blue", "cat", "red"))

    scores = scores_of(network, images, names)

    assert find_objects(network, images, names).classes == ("red", "blue")
    assert [score.name for score in scores.per_class] == ["red", "blue"]
    assert scores.map50_95 == pytest.approx(1)


def test_network_that_shares_no_class_has_no_scores_and_does_not_run(images, names, colour_network) -> None:
    network = colour_network(("dog", "cat"))

    found = find_objects(network, images, names)

    assert (found.classes, network.batches) == ((), [])
    assert coco_scores(found.detections, images, names, classes=found.classes, task=DETECT).map50_95 is None


def test_network_that_finds_nothing_scores_zero(images, colour_network) -> None:
    scores = scores_of(colour_network(("dog", "cat", "cow")), images, ("dog", "cat", "cow"))

    assert scores.map50_95 == 0


def test_batch_changes_the_calls_but_not_the_scores(images, names, colour_network) -> None:
    by_four, by_one = colour_network(), colour_network()

    results = [scores_of(by_four, images, names, batch=4), scores_of(by_one, images, names, batch=1)]

    assert results[0] == results[1]
    assert (by_four.batches, by_one.batches) == ([4, 2], [1] * 6)


def test_other_image_size_is_letterboxed_and_mapped_back(images, names, colour_network) -> None:
    scores = scores_of(colour_network(image_size=128), images, names)

    assert scores.map50 == pytest.approx(1)


def test_labels_of_another_picture_are_refused(images, names, colour_network) -> None:
    images[2] = replace(images[2], size_wh=(65, 64))

    with pytest.raises(DataError, match=r"0002\.png: expected \(65, 64\) pixels .* got \(64, 64\)"):
        find_objects(colour_network(), images, names)


def test_repeated_class_names_are_refused(images, colour_network) -> None:
    with pytest.raises(DataError, match="class names must differ"):
        find_objects(colour_network(), images, ("red", "red", "blue"))
