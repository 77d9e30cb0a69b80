from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from visionlora.errors import DataError
from visionlora.scoring import score_model


def test_perfect_network_scores_one(images, names, colour_network) -> None:
    result = score_model(colour_network(), images, names)

    assert result.scores.map50_95 == pytest.approx(1)
    assert result.classes == names


def test_order_of_the_classes_does_not_matter(images, names, colour_network) -> None:
    truth = [replace(image, boxes_xyxy=image.boxes_xyxy + np.float32(1.5)) for image in images]  # not perfect

    straight = score_model(colour_network(("red", "green", "blue")), truth, names)
    permuted = score_model(colour_network(("blue", "red", "green")), truth, names)

    assert straight == permuted
    assert 0.1 < straight.scores.map50_95 < 0.9


def test_data_set_in_another_order_gives_the_same_scores(images, names, colour_network) -> None:
    reversed_images = [replace(image, class_ids=2 - image.class_ids) for image in images]

    result = score_model(colour_network(), reversed_images, names[::-1])

    assert result.scores.map50_95 == pytest.approx(1)
    assert [one.name for one in result.scores.per_class] == ["blue", "green", "red"]


def test_network_is_scored_on_the_classes_it_shares(images, names, colour_network) -> None:
    result = score_model(colour_network(("dog", "blue", "cat", "red")), images, names)

    assert result.classes == ("red", "blue")
    assert [one.name for one in result.scores.per_class] == ["red", "blue"]
    assert result.scores.map50_95 == pytest.approx(1)


def test_network_that_shares_no_class_has_no_scores_and_does_not_run(images, names, colour_network) -> None:
    network = colour_network(("dog", "cat"))

    result = score_model(network, images, names)

    assert (result.scores, result.classes, network.batches) == (None, (), [])


def test_network_that_finds_nothing_scores_zero(images, colour_network) -> None:
    result = score_model(colour_network(("dog", "cat", "cow")), images, ("dog", "cat", "cow"))

    assert result.scores.map50_95 == 0


def test_batch_changes_the_calls_but_not_the_scores(images, names, colour_network) -> None:
    by_four, by_one = colour_network(), colour_network()

    results = [score_model(by_four, images, names, batch=4), score_model(by_one, images, names, batch=1)]

    assert results[0] == results[1]
    assert (by_four.batches, by_one.batches) == ([4, 2], [1] * 6)


def test_other_image_size_is_letterboxed_and_mapped_back(images, names, colour_network) -> None:
    result = score_model(colour_network(image_size=128), images, names)

    assert result.scores.map50 == pytest.approx(1)


def test_labels_of_another_picture_are_refused(images, names, colour_network) -> None:
    images[2] = replace(images[2], size_wh=(65, 64))

    with pytest.raises(DataError, match=r"0002\.png: expected \(65, 64\) pixels .* got \(64, 64\)"):
        score_model(colour_network(), images, names)


def test_repeated_class_names_are_refused(images, colour_network) -> None:
    with pytest.raises(DataError, match="class names must differ"):
        score_model(colour_network(), images, ("red", "red", "blue"))
