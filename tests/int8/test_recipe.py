"""A recipe is all that makes an int8 graph of a float one, and can be kept as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantization.graphs import IMAGE_SIZE, detector, run, tensors_of
from visionlora.errors import QuantizationError, UsageError
from visionlora.int8 import QuantizationRecipe, Scheme, apply_recipe
from visionlora.int8.ranges import ActivationRange
from visionlora.int8.scheme import METHODS, X86
from visionlora.quantization import calibrate

INPUTS = np.random.default_rng(0).uniform(0, 1, (4, 1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
SYMMETRIC = Scheme("symmetric", symmetric=True)


def int8_convs_of(model) -> set[str]:
    levels = {name for name, tensor in tensors_of(model).items() if tensor.dtype == np.int8 and tensor.ndim == 4}
    stored = {one.output[0] for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] in levels}
    return {one.name for one in model.graph.node if one.op_type == "Conv" and one.input[1] in stored}


@given(st.floats(max_value=0, min_value=-1e9), st.floats(min_value=0, max_value=1e9), st.sampled_from(METHODS))
def test_text_keeps_every_bit(low, high, method):
    recipe = QuantizationRecipe(replace(X86, method=method), {"a/b": ActivationRange(low, high)}, ("one", "two"))

    assert QuantizationRecipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("scheme", [X86, SYMMETRIC], ids=["asymmetric", "symmetric"])
def test_a_recipe_from_text_makes_the_same_bytes(scheme):
    recipe = calibrate(detector(), INPUTS, scheme)

    first, again = (
        apply_recipe(detector(), one).SerializeToString(deterministic=True)
        for one in (recipe, QuantizationRecipe.from_json(recipe.to_json()))
    )

    assert first == again


def test_it_serves_other_weights_of_the_same_layers():
    recipe = calibrate(detector(seed=0), INPUTS, X86)

    model = apply_recipe(detector(seed=1), recipe)

    assert int8_convs_of(model) == {"stem", "mix", "box", "score"}
    assert np.isfinite(run(model, INPUTS[0])).all()


@pytest.mark.parametrize("left", [("box",), ("mix",), ("stem", "mix"), ("stem", "mix", "box", "score")])
def test_more_float_layers_need_no_other_ranges(left):
    recipe = calibrate(detector(), INPUTS, replace(X86, weights="int7"))  # exact on any CPU

    model = apply_recipe(detector(), replace(recipe, float_layers=left))

    assert int8_convs_of(model) == {"stem", "mix", "box", "score"} - set(left)
    wanted, before, after = (run(one, INPUTS[0]) for one in (detector(), apply_recipe(detector(), recipe), model))
    assert np.abs(after - wanted).mean() < np.abs(before - wanted).mean()
    if len(left) == 4:
        np.testing.assert_allclose(after, wanted, atol=1e-4)


def test_a_layer_that_is_none_and_a_recipe_of_another_graph_are_refused():
    recipe = calibrate(detector(), INPUTS, X86)

    with pytest.raises(QuantizationError, match=r"names of convolutions of this graph, got \['nowhere'\]"):
        apply_recipe(detector(), replace(recipe, float_layers=("nowhere", "box")))
    with pytest.raises(QuantizationError, match=r"without a range for \d+ of its \d+ tensors \(stem, "):
        apply_recipe(detector(), replace(recipe, ranges={"images": recipe.ranges["images"]}))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format":1}', '{"format":1,"scheme":{"name":"x"},"ranges":{},"float_layers":[]}']
)
def test_text_that_is_no_recipe_is_refused(text):
    with pytest.raises(QuantizationError, match="quantization recipe: expected"):
        QuantizationRecipe.from_json(text)


def test_ranges_and_scheme_must_agree():
    with pytest.raises(QuantizationError, match="expected symmetric ranges for scheme symmetric, got others for"):
        QuantizationRecipe(SYMMETRIC, {"a": ActivationRange(-1, 1)})
    with pytest.raises(UsageError, match="--method: expected one of activation"):
        replace(X86, method="guess")
