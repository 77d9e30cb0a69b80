"""How an exported graph of an Ultralytics detector was folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from numpy.typing import NDArray
from torch import nn

from visionlora.adapters import FoldedBase
from visionlora.adapters.torch import adaptable_layers
from visionlora.detectors import folding
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.classes import class_output_names
from visionlora.detectors.ultralytics.layout import constant_layers, norms_behind_layers


def folded_base(base: Base, constants: Mapping[str, NDArray]) -> FoldedBase:
    """Return how `base` was folded into an exported graph, whose end-to-end head is left out (see `Family`)."""
    one_to_one = f"model.{len(cast(nn.Sequential, base.model.model)) - 1}.one2one_"
    fixed = set(constant_layers(base.model))
    layers = [layer.name for layer in adaptable_layers(base.model)[0] if layer.name not in fixed]
    return folding.folded_base(
        base,
        constants,
        norms=norms_behind_layers(base.model),
        class_outputs=class_output_names(base.model),
        fixed=fixed,
        unused=[name for name in layers if name.startswith(one_to_one)],
    )
