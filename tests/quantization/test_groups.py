"""Blocks and branches by the names of the layers, and what they cost."""

from __future__ import annotations

import numpy as np

from tests.quantization.graphs import build, node
from visionlora.int8 import load_float_model
from visionlora.int8.plan import plan_quantization
from visionlora.quantization.groups import layer_groups
from visionlora.tasks import DETECT


def test_blocks_are_groups_and_the_head_is_split_into_branches(exported) -> None:
    model = load_float_model(exported.path, DETECT)
    convs = plan_quantization(model.graph).convs

    groups = layer_groups(model, convs, exported.image_size)

    assert [layer for group in groups for layer in group.layers if layer not in convs] == []
    assert sum(len(group.layers) for group in groups) == len(convs)
    names = [group.name for group in groups]
    assert names[:2] == ["model.0", "model.1"] and len(set(names)) == len(names)
    head = {name for name in names if "/" in name}
    assert head and len({name.split("/")[0] for name in head}) == 1  # of the last block alone
    assert {name.split("/")[1].split(".")[0] for name in head} == {"cv2", "cv3"}  # boxes and scores


def test_multiply_adds_are_those_of_the_convolutions() -> None:
    """By definition: each number of the output is the sum of inputs / groups * kernel products."""
    nodes = [
        node("Conv", "images a", "x", name="/net/one/a/Conv", strides=[2, 2]),
        node("Conv", "x b", "y", name="/net/one/b/Conv", group=4),
        node("Conv", "y c", "output0", name="plain"),
    ]
    shapes = {"a": (8, 3, 2, 2), "b": (8, 2, 1, 1), "c": (5, 8, 1, 1)}
    model = build(nodes, {name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()})

    groups = layer_groups(model, ("/net/one/a/Conv", "/net/one/b/Conv", "plain"), 16)

    assert [group.name for group in groups] == ["one", "plain"]
    assert groups[0].multiply_adds == 8 * 8 * 8 * (3 * 2 * 2) + 8 * 8 * 8 * 2
    assert groups[1].multiply_adds == 5 * 8 * 8 * 8
    assert [group.weights for group in groups] == [8 * 3 * 2 * 2 + 8 * 2, 5 * 8]
