"""The cheaper decode gives the same means, whatever the logits, and a task says how many there are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import build, node, run
from visionlora.int8.decode import simplify_decode
from visionlora.int8.plan import Use, plan_quantization
from visionlora.tasks import DETECT
from visionlora.tasks.detect import Detect

BINS = 16
LEVELS = {"large": 2, "small": 4}  # the stride of each level's convolution


class Turned(Detect):
    """Four sides and an angle."""

    binned = 5


def head(*, joined: bool, count: int = 4) -> onnx.ModelProto:
    """The numbers that a detector of one or two levels takes as means, as Ultralytics exports those of boxes."""
    rng = np.random.default_rng(0)
    constants = {
        "flat": np.array([1, count * BINS, -1]),
        "split": np.array([1, count, BINS, -1]),
        "means": np.array([1, count, -1]),
        "bins": np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1),
    }
    nodes = []
    for name, stride in LEVELS.items():
        constants[f"{name}.w"] = rng.normal(0, 3, (count * BINS, 3, 1, 1)).astype(np.float32)
        nodes.append(node("Conv", f"images {name}.w", name, strides=[stride, stride]))
        nodes.append(node("Reshape", f"{name} flat", f"{name}.flat"))
    if joined:
        nodes.append(node("Concat", "large.flat small.flat", "logits", axis=-1))
    else:
        nodes[2:] = [node("Abs", "large.flat", "logits")]
        constants.pop("small.w")
    nodes += [
        node("Reshape", "logits split", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1, 3]),
        node("Softmax", "t", "p", axis=1),
        node("Conv", "p bins", "mean"),
        node("Reshape", "mean means", "output0"),
    ]
    return build(nodes, constants)


@pytest.mark.parametrize("task", [DETECT, Turned()], ids=["boxes", "turned boxes"])
@pytest.mark.parametrize("joined", [True, False], ids=["of levels", "of anything"])
@pytest.mark.parametrize("size", [1.0, 1e3], ids=["usual", "huge"])
def test_it_is_the_same_mean(joined, size, task):
    images = size * np.random.default_rng(1).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    model = head(joined=joined, count=task.binned)
    wanted = run(model, images)

    assert simplify_decode(model.graph, task)

    onnx.checker.check_model(model, full_check=True)
    assert [one.op_type for one in model.graph.node].count("MatMul") == 1
    assert wanted.std() > 1
    np.testing.assert_allclose(run(model, images), wanted, atol=2e-5)
    assert not simplify_decode(model.graph, task)  # it is simple already


def test_the_levels_are_turned_one_by_one_and_their_convolutions_stay_last():
    model = head(joined=True)
    simplify_decode(model.graph, DETECT)

    plan = plan_quantization(model.graph)

    assert [one.input[0] for one in model.graph.node if one.op_type == "Transpose"][:2] == ["large", "small"]
    assert plan.convs == ("large", "small")
    assert {group.tensors: group.use for group in plan.groups} == {
        ("images",): Use.UNIT, ("large",): Use.BOX, ("small",): Use.BOX,
    }  # fmt: skip


@pytest.mark.parametrize(("axes", "task"), [([0, 3, 1, 2], DETECT), ([0, 2, 1, 3], Turned())], ids=["axes", "task"])
def test_another_softmax_is_left_alone(axes, task):
    model = head(joined=True)
    model.graph.node[-4].attribute[0].ints[:] = axes
    before = model.SerializeToString()

    assert not simplify_decode(model.graph, task)
    assert model.SerializeToString() == before
