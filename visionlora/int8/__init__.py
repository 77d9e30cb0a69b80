"""INT8 graphs: which tensors become integers, in which ranges, and how they are written. NumPy and ONNX alone.

What a device needs to turn a float graph and a recipe into an int8 one; calibration and search are in `quantization`.
"""

from visionlora.int8.adapter_recipe import attach_recipe, recipe_of, thresholds_of
from visionlora.int8.float_model import load_float_model
from visionlora.int8.qdq import apply_recipe
from visionlora.int8.recipe import QuantizationRecipe
from visionlora.int8.scheme import Scheme

__all__ = [
    "QuantizationRecipe",
    "Scheme",
    "apply_recipe",
    "attach_recipe",
    "load_float_model",
    "recipe_of",
    "thresholds_of",
]
