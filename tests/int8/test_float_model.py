"""Only a graph that can be quantized is taken, and its constants lie in one place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.quantization.graphs import build, detector, node, run
from visionlora.errors import ModelError
from visionlora.int8 import load_float_model
from visionlora.tasks import DETECT


def test_constant_nodes_become_initializers(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["factor"], value_float=2.0),
        node("Identity", "factor", "again"),
        node("Mul", "images again", "twice"),
        node("Mul", "twice stored", "output0"),
    ]
    model = build(nodes, {"stored": np.float32(1.5)})
    onnx.save(model, tmp_path / "model.onnx")
    images = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)

    loaded = load_float_model(tmp_path / "model.onnx", DETECT)

    assert [one.op_type for one in loaded.graph.node] == ["Mul", "Mul"]
    np.testing.assert_array_equal(run(loaded, images), images * 3)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    model = detector()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.node.append(node("QuantizeLinear", "output0 unit", "q"))
    model.opset_import[0].version = 12
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(ModelError) as caught:
        load_float_model(tmp_path / "model.onnx", DETECT)

    for part in ("got a quantized one", "float32 throughout", "dynamic one, got 8", "later, got 12", "sub-graphs"):
        assert part in str(caught.value)
