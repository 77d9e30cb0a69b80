"""A file that is large, slow or blind is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.quantization.graphs import build, node, random_conv, save
from visionlora.errors import QuantizationError
from visionlora.int8 import QuantizationRecipe, apply_recipe
from visionlora.int8.plan import plan_quantization
from visionlora.int8.ranges import ActivationRange
from visionlora.int8.scheme import X86
from visionlora.quantization.checks import check_int8_convs, check_scores, check_size
from visionlora.tasks import DETECT


class Constant:
    """A network that sees the same everywhere."""

    task, names, image_size, nms = DETECT, ("one", "two"), 64, True

    def __init__(self, score: float) -> None:
        self._output = np.full((1, 6, 9), score, dtype=np.float32)

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self._output,)


def test_a_file_that_is_not_much_smaller_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(bytes(450))

    assert check_size(tmp_path / "file", 1000) == 450
    with pytest.raises(QuantizationError, match="at most 45% of the float file's 999 bytes, got 450"):
        check_size(tmp_path / "file", 999)


def test_convolutions_left_float_are_refused_by_name(model):
    with pytest.raises(
        QuantizationError, match=r"at least 90% of 2 convolutions in int8.* runs 0; in float: stem, mix"
    ):
        check_int8_convs(model, ["stem", "mix"], X86)


def test_quantize_nodes_alone_do_not_count_as_int8(tmp_path):
    """Weights that depend on the image: the file has QuantizeLinear all around, and the convolution runs in float."""
    weight, bias = random_conv(np.random.default_rng(0), 4, 3, 3)
    nodes = [
        node("ReduceMax", "images", "brightest"),
        node("Mul", "w brightest", "computed"),
        node("Conv", "images computed b", "a"),
        node("Conv", "a w2", "output0"),
    ]
    model = build(nodes, {"w": weight, "b": bias, "w2": random_conv(np.random.default_rng(0), 2, 4, 1)[0]})
    plan = plan_quantization(model.graph)
    ranges = {name: ActivationRange(-2, 2) for group in plan.groups for name in group.tensors}
    written = apply_recipe(model, QuantizationRecipe(X86, ranges))
    onnx.save(written, tmp_path / "model.onnx")

    assert sum(one.op_type == "QuantizeLinear" for one in written.graph.node) == 3
    with pytest.raises(QuantizationError, match=r"runs 1; in float: a$"):
        check_int8_convs(tmp_path / "model.onnx", plan.convs, X86)


def test_a_model_without_convolutions_is_refused(tmp_path):
    path = save(build([node("Relu", "images", "output0")], {}), tmp_path / "model.onnx")

    with pytest.raises(QuantizationError, match="0 convolutions"):
        check_int8_convs(path, [], X86)


@pytest.mark.parametrize("left", [0.0, 0.0009])
def test_scores_that_vanish_are_refused(left):
    with pytest.raises(QuantizationError, match=r"finds nothing.*float network's 0\.4"):
        check_scores(Constant(0.4), Constant(left), [np.zeros((1, 3, 64, 64), dtype=np.float32)])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        check_scores(Constant(0.4), Constant(wrong), [np.zeros((1, 3, 64, 64), dtype=np.float32)])


@pytest.mark.parametrize(("before", "after"), [(0.4, 0.2), (0.0, 0.0), (0.0009, 0.0)])
def test_scores_that_stay_or_never_were_are_no_failure(before, after):
    check_scores(Constant(before), Constant(after), [np.zeros((1, 3, 64, 64), dtype=np.float32)])
