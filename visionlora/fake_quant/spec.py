"""From a recipe for an int8 file to what training computes as that file will."""

from __future__ import annotations

import onnx

from visionlora.errors import UsageError
from visionlora.fake_quant.ranges import FakeQuantSpec, RangeSpec
from visionlora.int8 import QuantizationRecipe
from visionlora.int8.plan import Use


def fake_quant_spec(graph: onnx.GraphProto, recipe: QuantizationRecipe) -> FakeQuantSpec:
    """Return what `apply_recipe` makes int8 of a graph, for training.

    Raises:
        UsageError: the recipe is for int8 activations around zero.
    """
    if recipe.scheme.symmetric:
        raise UsageError(f"scheme {recipe.scheme.name}: training knows uint8 activations only")
    plan = recipe.plan_for(graph)
    known = (Use.UNIT, Use.SCORE)  # by definition, not by measurement
    ranges = []
    for group in plan.groups:
        chosen = recipe.ranges[group.tensors[0]]
        scale, zero = float(chosen.scale), int(chosen.zero_point)
        ranges.append(RangeSpec(group.tensors, group.sources, scale, zero, learned=group.use not in known))
    return FakeQuantSpec(plan.convs, tuple(ranges), plan.int4)
