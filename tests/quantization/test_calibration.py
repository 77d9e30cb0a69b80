"""Calibration shows every class and measures the float model in bounded memory."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import build, conv, detector, node, random_conv
from visionlora.data import LabelledImage
from visionlora.data.leakage import choose_images
from visionlora.errors import QuantizationError
from visionlora.int8.histogram import Histogram
from visionlora.int8.scheme import X86
from visionlora.quantization import calibrate
from visionlora.quantization.calibration import measure


def images_of(*classes: list[int]) -> list[LabelledImage]:
    return [
        LabelledImage(Path(f"{index}.png"), (9, 9), np.tile(np.float32([0, 0, 5, 5]), (len(ids), 1)), np.array(ids))
        for index, ids in enumerate(classes)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_shown(seed):
    images = images_of(*[[0, 1]] * 60, [2], *[[1]] * 60)

    chosen = choose_images(images, 4, seed=seed)

    assert len(chosen) == 4
    assert {one for image in chosen for one in image.class_ids.tolist()} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_only_three_of_many_images_show_is_shown_by_all_three(seed):
    classes: list[list[int]] = [[index % 2, index % 3] for index in range(300)]
    for index in (17, 140, 299):
        classes[index] = [0, 9]

    chosen = choose_images(images_of(*classes), 32, seed=seed)

    assert sum(9 in image.class_ids.tolist() for image in chosen) == 3


def test_classes_are_shown_equally_often():
    images = images_of(*[[0]] * 90, *[[1]] * 6, *[[2]] * 30, *[[]] * 30)

    chosen = choose_images(images, 12)

    assert np.bincount(np.concatenate([image.class_ids for image in chosen])).tolist() == [4, 4, 4]


def test_every_class_fits_into_as_few_images_as_need_be():
    images = images_of([0], [1], [2], [3], [0, 1, 2], [4])

    chosen = choose_images(images, 3)

    assert {one for image in chosen for one in image.class_ids.tolist()} == {0, 1, 2, 3, 4}


def test_the_choice_follows_the_seed_and_keeps_the_order():
    images = images_of(*[[index % 3] for index in range(50)])

    names = [[image.path.stem for image in choose_images(images, 9, seed=seed)] for seed in (1, 1, 2)]

    assert names[0] == names[1] != names[2]
    assert names[0] == sorted(names[0], key=int)


def test_all_are_taken_where_there_are_fewer_and_those_without_objects_fill_up():
    images = images_of([0], [], [], [1])

    assert list(choose_images(images, 32)) == images
    assert len(choose_images(images, 3)) == 3


@pytest.mark.parametrize("memory", [1, 3000, 2**28], ids=["one tensor a time", "some", "all"])
def test_measuring_counts_every_value_in_any_memory(memory):
    weight, bias = random_conv(np.random.default_rng(0), 4, 3, 3)
    model = build(
        [node("Conv", "images w b", "a"), node("MaxPool", "a", "p", kernel_shape=[2, 2]), node("Relu", "p", "output0")],
        {"w": weight, "b": bias},
    )
    inputs = np.random.default_rng(1).uniform(0, 1, (3, 1, 3, 16, 16)).astype(np.float32)

    measured = measure(model, ["a", "p", "images"], inputs, memory=memory)

    wanted = Histogram()
    wanted.add(inputs)
    np.testing.assert_array_equal(measured["images"].points()[0], wanted.points()[0])
    a = conv(np.concatenate(list(inputs)), weight, bias)
    values, counts = measured["a"].points()
    assert counts.sum() == a.size
    np.testing.assert_allclose(np.repeat(values, counts), np.sort(a, axis=None), rtol=2e-3, atol=1e-6)
    assert measured["p"].points()[1].sum() == 3 * 4 * 13 * 13


def test_a_model_that_gives_nan_is_refused_by_name():
    model = build([node("Log", "images", "logs"), node("Relu", "logs", "output0")], {})

    with pytest.raises(QuantizationError, match="activation logs of the float model"):
        measure(model, ["logs"], [np.full((1, 3, 16, 16), -1, dtype=np.float32)])


def test_no_image_is_refused():
    with pytest.raises(QuantizationError, match="at least one calibration image"):
        measure(detector(), ["mix"], [])


def test_an_activation_that_never_changes_is_logged(caplog):
    grey = [np.full((1, 3, 64, 64), 0.5, np.float32)] * 2
    model = detector()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("weight", "bias")):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))

    with caplog.at_level(logging.WARNING, "visionlora"):
        calibrate(model, grey, X86)

    assert "have one value on all calibration pictures" in caplog.text
