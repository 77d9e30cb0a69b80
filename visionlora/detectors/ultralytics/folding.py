"""How an exported graph of an Ultralytics detector was folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from numpy.typing import NDArray
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import FoldedBase
from visionlora.adapters.torch import adaptable_layers
from visionlora.detectors import folding
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.classes import class_output_names
from visionlora.detectors.ultralytics.heads import is_left_out
from visionlora.detectors.ultralytics.layout import constant_layers, norms_behind_layers


def folded_base(base: Base, constants: Mapping[str, NDArray]) -> FoldedBase:
    """Return how `base` was folded into an exported graph, which leaves some layers out (see `Family`)."""
    fixed = set(constant_layers(base.model))
    layers = [layer.name for layer in adaptable_layers(base.model)[0] if layer.name not in fixed]
    return folding.folded_base(
        base,
        constants,
        norms=norms_behind_layers(base.model),
        class_outputs=class_output_names(base.model),
        fixed=fixed,
        unused=[name for name in layers if is_left_out(cast(DetectionModel, base.model), name)],
    )
